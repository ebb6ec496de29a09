"""The data of the page: compressed packs of typed arrays, in inert script elements or in separate files.

A *pack* is a JSON header followed by arrays, little-endian:

    uint32 length of the header, uint32 zero, header (UTF-8, padded with spaces to a multiple of 8), arrays

The header's `arrays` gives [type, byte offset after the header, length] for each name; every array starts at a
multiple of 8. On disk a pack is gzip and then base64, so that its container (a script element of the page, or a string in
a separate script: `files.py`) contains no markup and no code.

One pack holds the overview (every column of every latent, and the token table). One pack per 64 latents holds their
examples, logit tables and histograms; the page decodes it when one of them is opened. Sections add to both.
"""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Int64

from ..report.control_results import control_results
from ..report.limit_curves import drawing, limit_curves
from ..tables.analysis_files import LABELS, TEXT_COLUMNS, AnalysisResults
from .identity import run_digest
from .section import Section, chunk_arrays, chunk_header, joined_arrays, joined_header

CHUNK_LATENTS = 64
GIST_TOKENS = 4
MODELS = ("reference", "intervened", "difference")
SIDES = ("top", "bottom")

_TYPES = {
    "float64": "Float64Array",
    "float32": "Float32Array",
    "int32": "Int32Array",
    "uint32": "Uint32Array",
    "uint8": "Uint8Array",
}


class Gist:
    """Each latent's few tokens for the table, from its examples and logit tables, as rows of the token table; padded with -1.

    `peaks` are the distinct peak tokens of its top examples, strongest first. `points` are the top tokens of a logit table:
    that of the model that has the latent (new: intervened, lost: reference), or if both have it that of the difference, and of the
    intervened model where the difference does not read as tokens.
    """

    def __init__(self, n_latents: int) -> None:
        self.peaks = np.full((n_latents, GIST_TOKENS), -1, dtype=np.int32)
        self.points = np.full((n_latents, GIST_TOKENS), -1, dtype=np.int32)


class TokenTable:
    """Every distinct (id, display text) once; examples and logit tables refer to its rows."""

    def __init__(self) -> None:
        self.index: dict[tuple[int, str], int] = {}

    def add(self, ids: np.ndarray, texts: pa.DictionaryArray) -> np.ndarray:
        """Add tokens given by id and text, and return their rows."""
        text_codes = np.asarray(texts.indices, dtype=np.int64)
        keys = ids.astype(np.int64) << 32 | text_codes
        distinct, inverse = np.unique(keys, return_inverse=True)
        # The Arrow dictionary may hold a whole vocabulary; only tokens that occur become Python strings.
        words = texts.dictionary.take(pa.array(distinct & 0xFFFFFFFF)).to_pylist()
        index = self.index
        rows = [
            index.setdefault(token, len(index))
            for token in zip((distinct >> 32).tolist(), words, strict=True)
        ]
        return np.asarray(rows, dtype=np.uint32)[inverse]

    def header(self) -> dict[str, list[Any]]:
        """Return the table for the JSON header."""
        return {"ids": [token_id for token_id, _ in self.index], "texts": [text for _, text in self.index]}


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Encode a pack as base64 of gzip."""
    layout, body, offset = {}, [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        padding = -len(data) % 8
        layout[name] = [_TYPES[array.dtype.name], offset, len(array)]
        body += [data, bytes(padding)]
        offset += len(data) + padding
    text = json.dumps({**header, "arrays": layout}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    prefix = np.asarray([len(text), 0], dtype="<u4").tobytes()
    return base64.b64encode(gzip.compress(b"".join([prefix, text, *body]), compresslevel=5, mtime=0)).decode(
        "ascii"
    )


def overview_pack(
    results: AnalysisResults,
    gist: Gist,
    tokens: TokenTable,
    sections: Sequence[Section] = (),
    files: Mapping[str, Any] | None = None,
) -> str:
    """Return the overview: numeric columns as float32 (integers as int32, -1 if missing), labels as codes, texts as JSON.

    Args:
        files: Record of the pack files (`PackFiles.record`), if the packs are separate files.
    """
    features = results.features
    arrays: dict[str, np.ndarray] = {}
    for name in features.columns:
        if name in TEXT_COLUMNS:
            continue
        column = features[name]
        if pd.api.types.is_integer_dtype(column):
            arrays[f"column:{name}"] = column.fillna(-1).to_numpy(np.int32)
        elif pd.api.types.is_numeric_dtype(column):
            arrays[f"column:{name}"] = column.to_numpy(np.float32, na_value=np.nan)
    arrays["labels"] = np.asarray([LABELS.index(label) for label in features["label"]], dtype=np.uint8)
    if (candidates := _candidates(features)) is not None:
        arrays["candidates"] = candidates
    arrays["peaks"] = gist.peaks.ravel()
    arrays["points"] = gist.points.ravel()
    header = {
        "run": run_digest(results),
        "summary": results.summary,
        "labels": LABELS,
        "n_latents": len(features),
        "chunk_latents": CHUNK_LATENTS,
        "files": files,
        "gist_tokens": GIST_TOKENS,
        "evidence": dict(Counter(features["evidence"].tolist())),
        "explanations": features["explanation"].fillna("").tolist(),
        "tokens": tokens.header(),
        **_certainty(results),
        **joined_header(sections),
    }
    return pack(_finite(header), arrays | joined_arrays(sections))


def _candidates(features: pd.DataFrame) -> np.ndarray | None:
    """Return the codes of the labels that this training alone would give; None if they are the labels, or were not recorded."""
    if "candidate" not in features or bool((features["candidate"] == features["label"]).all()):
        return None
    return np.asarray([LABELS.index(label) for label in features["candidate"]], dtype=np.uint8)


def _certainty(results: AnalysisResults) -> dict[str, list[dict[str, Any]]]:
    """Return the certainty of the counts in the report's sentences and charts, so that page and report agree."""
    return {
        "control_results": [
            {"name": result.name, "text": result.text and result.text.text, "meaning": result.meaning}
            for result in control_results(results)
        ],
        "limits": [
            {
                "limit": curve.limit,
                "meaning": curve.meaning,
                "configured": curve.configured,
                "text": curve.text.text,
                "in_nulls": curve.expected_false is not None,
                "drawing": drawing(curve),
            }
            for curve in limit_curves(results.summary.get("limits") or [])
        ],
    }


def latent_packs(
    results: AnalysisResults, tokens: TokenTable, gist: Gist, sections: Sequence[Section] = ()
) -> Iterator[str]:
    """Yield the packs of 64 latents each, in order; fills the token table and the gist.

    Makes one pass over the examples and logit tables, with one pack in memory at a time.
    """
    logit_models = _logit_models(results.features["label"].tolist())
    starts = range(0, len(results.features), CHUNK_LATENTS)
    tables = zip(
        starts,
        results.examples_in_order(CHUNK_LATENTS),
        results.logits_in_order(CHUNK_LATENTS),
        results.histograms_in_order(CHUNK_LATENTS),
        strict=True,
    )
    for first, example_rows, logit_rows, histogram_rows in tables:
        last = first + CHUNK_LATENTS
        rows = results.features.iloc[first:last]
        examples, sources = _example_arrays(example_rows.combine_chunks(), tokens)
        logits = _logit_arrays(logit_rows.combine_chunks(), tokens)
        histograms, counted_sources = _histogram_arrays(histogram_rows.combine_chunks())
        _fill_peaks(gist, examples)
        _fill_points(gist, logit_models, logits)
        header = {
            "reasons": rows["reason"].fillna("").tolist(),
            "evidence": rows["evidence"].tolist(),
            "sources": sources,
            "counted_sources": counted_sources,
            **chunk_header(sections, first, last),
        }
        arrays = examples | logits | histograms | chunk_arrays(sections, first, last)
        yield pack(_finite(header), arrays)


def _example_arrays(table: pa.Table, tokens: TokenTable) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return examples as flat arrays, with one entry per example or per token, and the sources they refer to by number."""
    lists = {name: _flat(table[name]) for name in ("token_ids", "tokens", "special", "template")}
    values = {name: _flat(table[name]) for name in ("values", "reference", "intervened")}
    special, template = (
        lists[name].to_numpy(zero_copy_only=False).astype(np.uint8) for name in ("special", "template")
    )
    sources = _encoded(_joined(table["source"]))
    arrays = {
        "example_latent": table["latent"].to_numpy().astype(np.int32),
        "example_rank": table["rank"].to_numpy().astype(np.int32),
        "example_quantile": table["quantile"].to_numpy().astype(np.float32),
        "example_document": table["document"].to_numpy().astype(np.float64),
        "example_source": sources.indices.to_numpy(zero_copy_only=False).astype(np.uint8),
        "example_start": table["start"].to_numpy().astype(np.int32),
        "example_position": table["position"].to_numpy().astype(np.int32),
        "example_peak": table["peak"].to_numpy().astype(np.float32),
        "example_length": np.diff(_joined(table["token_ids"]).offsets.to_numpy()).astype(np.int32),
        "example_tokens": tokens.add(
            lists["token_ids"].to_numpy(zero_copy_only=False), _encoded(lists["tokens"])
        ),
        "example_flags": special | template << 1,
    }
    arrays |= {
        f"example_{name}": array.to_numpy(zero_copy_only=False).astype(np.float32)
        for name, array in values.items()
    }
    return arrays, [str(source) for source in sources.dictionary.to_pylist()]


def _fill_peaks(gist: Gist, examples: Mapping[str, np.ndarray]) -> None:
    """Fill in the distinct peak tokens of the top examples."""
    begins = np.cumsum(examples["example_length"], dtype=np.int64) - examples["example_length"]
    at = begins + examples["example_position"] - examples["example_start"]
    top = np.isnan(examples["example_quantile"])
    found: dict[int, list[int]] = {}
    order = np.lexsort((examples["example_rank"], examples["example_latent"]))
    for row in order[top[order]]:
        peaks = found.setdefault(int(examples["example_latent"][row]), [])
        token = int(examples["example_tokens"][at[row]])
        if token not in peaks and len(peaks) < GIST_TOKENS:
            peaks.append(token)
    for latent, peaks in found.items():
        gist.peaks[latent, : len(peaks)] = peaks


def _logit_models(labels: Sequence[str]) -> Int64[np.ndarray, " latent"]:
    """Return, for each latent, the index in MODELS of the logit table that the overview shows."""
    models = {"new": MODELS.index("intervened"), "lost": MODELS.index("reference")}
    return np.asarray([models.get(label, MODELS.index("difference")) for label in labels])


def _fill_points(
    gist: Gist, logit_models: Int64[np.ndarray, " latent"], logits: Mapping[str, np.ndarray]
) -> None:
    """Fill in the top tokens of lists that read as tokens."""
    latents = logits["logit_latent"]
    readable = (logits["logit_side"] == SIDES.index("top")) & (logits["logit_readable"] == 1)
    _fill_from(gist, logits, readable & (logits["logit_model"] == logit_models[latents]))
    both_models = logit_models[latents] == MODELS.index("difference")
    unfilled = gist.points[latents, 0] < 0
    intervened = logits["logit_model"] == MODELS.index("intervened")
    _fill_from(gist, logits, readable & both_models & unfilled & intervened)


def _fill_from(gist: Gist, logits: Mapping[str, np.ndarray], chosen: Bool[np.ndarray, " row"]) -> None:
    latents, rows = logits["logit_latent"], np.flatnonzero(chosen)
    # Rows are ordered by latent, then by rank, so a row's rank is its distance to the latent's first row.
    first = np.searchsorted(latents[rows], latents[rows])
    rank = np.arange(len(rows)) - first
    kept = rank < GIST_TOKENS
    gist.points[latents[rows[kept]], rank[kept]] = logits["logit_token"][rows[kept]]


def _logit_arrays(table: pa.Table, tokens: TokenTable) -> dict[str, np.ndarray]:
    models = {model: code for code, model in enumerate(MODELS)}
    sides = {side: code for code, side in enumerate(SIDES)}
    return {
        "logit_latent": table["latent"].to_numpy().astype(np.int32),
        "logit_model": np.asarray([models[model] for model in table["model"].to_pylist()], dtype=np.uint8),
        "logit_side": np.asarray([sides[side] for side in table["side"].to_pylist()], dtype=np.uint8),
        "logit_token": tokens.add(table["token_id"].to_numpy(), _encoded(_joined(table["token"]))),
        "logit_value": table["value"].to_numpy().astype(np.float32),
        "logit_readable": table["readable"].to_numpy(zero_copy_only=False).astype(np.uint8),
    }


def _histogram_arrays(
    table: pa.Table,
) -> tuple[dict[str, np.ndarray], list[tuple[str | None, int | None]]]:
    """Return histograms as flat arrays, with one entry per latent and source or per bin, and the sources with their token counts."""
    named = zip(table["source"].to_pylist(), table["tokens"].to_pylist(), strict=True)
    numbers: dict[tuple[str | None, int | None], int] = {}
    codes = [numbers.setdefault(source, len(numbers)) for source in named]
    return {
        "histogram_latent": table["latent"].to_numpy().astype(np.int32),
        "histogram_source": np.asarray(codes, dtype=np.uint8),
        "histogram_width": table["width"].to_numpy().astype(np.float64),
        "histogram_length": np.diff(_joined(table["counts"]).offsets.to_numpy()).astype(np.int32),
        "histogram_counts": _flat(table["counts"]).to_numpy().astype(np.int32),
    }, list(numbers)


def _joined(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks()


def _encoded(texts: Any) -> Any:
    return texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()


def _flat(column: pa.ChunkedArray) -> Any:
    return _joined(column).flatten()


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
