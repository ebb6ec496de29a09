"""What the page holds: packs of typed arrays, compressed, in inert script elements.

A *pack* is a JSON header and arrays behind it, little-endian:

    uint32 length of the header, uint32 zero, header (UTF-8, padded with spaces to a multiple of 8), arrays

The header's `arrays` gives [type, byte offset behind the header, length] for each name; every array starts at a
multiple of 8. In the file a pack is gzip and then base64, so that a script element that holds it can hold no markup.

There is one pack for the overview (every column of every latent, the token table) and one for every 64 latents
(their examples, logit tables and histograms), which the page decodes when one of them is opened. Sections add to both.
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

from ..report.findings import control_findings
from ..report.limits import drawing, limit_curves
from ..results import LABELS, TEXT_COLUMNS, AnalysisResults
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
    """What the table shows of a latent's examples and logit tables: a few rows of the token table each, -1 where fewer.

    `peaks` are the distinct tokens its top examples peak on, strongest first. `points` are the tokens on top of the logit
    table of the model that has it (new: intervened, lost: reference), of the difference where both have it.
    """

    def __init__(self, n_latents: int) -> None:
        self.peaks = np.full((n_latents, GIST_TOKENS), -1, dtype=np.int32)
        self.points = np.full((n_latents, GIST_TOKENS), -1, dtype=np.int32)


class TokenTable:
    """Every distinct (id, display text) once; examples and logit tables point into it."""

    def __init__(self) -> None:
        self.index: dict[tuple[int, str], int] = {}

    def add(self, ids: np.ndarray, texts: pa.DictionaryArray) -> np.ndarray:
        """Rows of the table for tokens given by id and text."""
        text_codes = np.asarray(texts.indices, dtype=np.int64)
        keys = ids.astype(np.int64) << 32 | text_codes
        distinct, inverse = np.unique(keys, return_inverse=True)
        words = texts.dictionary.to_pylist()
        rows = [
            self.index.setdefault((int(key >> 32), words[int(key & 0xFFFFFFFF)]), len(self.index))
            for key in distinct
        ]
        return np.asarray(rows, dtype=np.uint32)[inverse]

    def header(self) -> dict[str, list[Any]]:
        """The table as JSON."""
        return {"ids": [token_id for token_id, _ in self.index], "texts": [text for _, text in self.index]}


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """One pack, as base64 of gzip."""
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
    return base64.b64encode(gzip.compress(b"".join([prefix, text, *body]), compresslevel=6, mtime=0)).decode(
        "ascii"
    )


def overview_pack(
    results: AnalysisResults,
    detailed: np.ndarray,
    gist: Gist,
    tokens: TokenTable,
    sections: Sequence[Section] = (),
) -> str:
    """Every numeric column as float32 (integers as int32, -1 where there is none), labels as codes, texts as JSON."""
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
    arrays["detailed"] = detailed.astype(np.uint8)
    arrays["peaks"] = gist.peaks.ravel()
    arrays["points"] = gist.points.ravel()
    header = {
        "run": run_digest(results),
        "summary": results.summary,
        "labels": LABELS,
        "n_latents": len(features),
        "chunk_latents": CHUNK_LATENTS,
        "gist_tokens": GIST_TOKENS,
        "evidence": dict(Counter(features["evidence"].tolist())),
        "explanations": features["explanation"].fillna("").tolist(),
        "tokens": tokens.header(),
        **_certainty(results),
        **joined_header(sections),
    }
    return pack(_finite(header), arrays | joined_arrays(sections))


def _certainty(results: AnalysisResults) -> dict[str, list[dict[str, Any]]]:
    """How sure the counts are, in the words and drawings of the report: the page must not say it differently."""
    return {
        "findings": [
            {"name": finding.name, "text": finding.text and finding.text.text, "meaning": finding.meaning}
            for finding in control_findings(results)
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
    results: AnalysisResults,
    detailed: np.ndarray,
    tokens: TokenTable,
    gist: Gist,
    sections: Sequence[Section] = (),
) -> Iterator[str]:
    """The packs of 64 latents each, in order; fills the token table and the gist."""
    latents = np.flatnonzero(detailed).tolist()
    examples = results.examples(latents).combine_chunks()
    logits = results.logits(latents).combine_chunks()
    example_arrays = _ExampleArrays(examples, tokens)
    example_arrays.fill_peaks(gist)
    logit_arrays = _logit_arrays(logits, tokens)
    logit_latents = logits["latent"].to_numpy()
    _fill_points(gist, results.features["label"].tolist(), logit_arrays)
    for first in range(0, len(results.features), CHUNK_LATENTS):
        rows = results.features.iloc[first : first + CHUNK_LATENTS]
        low, high = np.searchsorted(logit_latents, [first, first + CHUNK_LATENTS])
        arrays = example_arrays.between(first, first + CHUNK_LATENTS)
        arrays |= {name: array[low:high] for name, array in logit_arrays.items()}
        arrays |= chunk_arrays(sections, first, first + CHUNK_LATENTS)
        header = {
            "reasons": rows["reason"].fillna("").tolist(),
            "evidence": rows["evidence"].tolist(),
            "sources": example_arrays.sources,
            "histograms": {str(latent): results.histograms.get(str(latent)) for latent in rows["latent"]},
            **chunk_header(sections, first, first + CHUNK_LATENTS),
        }
        yield pack(_finite(header), arrays)


class _ExampleArrays:
    """All examples as flat arrays, so that a chunk is a slice of each."""

    def __init__(self, table: pa.Table, tokens: TokenTable) -> None:
        self.latents = table["latent"].to_numpy()
        lists = {name: _flat(table[name]) for name in ("token_ids", "tokens", "special", "template")}
        values = {name: _flat(table[name]) for name in ("values", "reference", "intervened")}
        self.offsets = np.concatenate([[0], np.cumsum([len(row) for row in table["token_ids"]])]).astype(
            np.int64
        )
        self.sources = sorted({str(source) for source in table["source"].to_pylist()})
        codes = {source: code for code, source in enumerate(self.sources)}
        texts = lists["tokens"]
        self.tokens = tokens.add(
            lists["token_ids"].to_numpy(zero_copy_only=False),
            texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode(),
        )
        special, template = (
            lists[name].to_numpy(zero_copy_only=False).astype(np.uint8) for name in ("special", "template")
        )
        self.per_token = {
            "example_tokens": self.tokens,
            "example_flags": special | template << 1,
            **{
                f"example_{name}": array.to_numpy(zero_copy_only=False).astype(np.float32)
                for name, array in values.items()
            },
        }
        self.per_example = {
            "example_latent": self.latents.astype(np.int32),
            "example_rank": table["rank"].to_numpy().astype(np.int32),
            "example_quantile": table["quantile"].to_numpy().astype(np.float32),
            "example_document": table["document"].to_numpy().astype(np.float64),
            "example_source": np.asarray(
                [codes[str(source)] for source in table["source"].to_pylist()], dtype=np.uint8
            ),
            "example_start": table["start"].to_numpy().astype(np.int32),
            "example_position": table["position"].to_numpy().astype(np.int32),
            "example_peak": table["peak"].to_numpy().astype(np.float32),
            "example_length": np.diff(self.offsets).astype(np.int32),
        }

    def between(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The arrays of the latents first, first + 1, …, last - 1."""
        low, high = np.searchsorted(self.latents, [first, last])
        tokens = slice(self.offsets[low], self.offsets[high])
        return {name: array[low:high] for name, array in self.per_example.items()} | {
            name: array[tokens] for name, array in self.per_token.items()
        }

    def fill_peaks(self, gist: Gist) -> None:
        """The distinct tokens that top examples peak on."""
        at = self.offsets[:-1] + self.per_example["example_position"] - self.per_example["example_start"]
        top = np.isnan(self.per_example["example_quantile"])
        found: dict[int, list[int]] = {}
        order = np.lexsort((self.per_example["example_rank"], self.latents))
        for row in order[top[order]]:
            listed = found.setdefault(int(self.latents[row]), [])
            token = int(self.tokens[at[row]])
            if token not in listed and len(listed) < GIST_TOKENS:
                listed.append(token)
        for latent, listed in found.items():
            gist.peaks[latent, : len(listed)] = listed


def _fill_points(gist: Gist, labels: list[str], arrays: dict[str, np.ndarray]) -> None:
    models = {"new": MODELS.index("intervened"), "lost": MODELS.index("reference")}
    wanted = np.asarray([models.get(label, MODELS.index("difference")) for label in labels])
    latents = arrays["logit_latent"]
    top = (arrays["logit_side"] == SIDES.index("top")) & (arrays["logit_model"] == wanted[latents])
    rows = np.flatnonzero(top)
    # Rows are ordered by latent, then by rank, so a row's place among its latent's is its distance to the first.
    first = np.searchsorted(latents[rows], latents[rows])
    place = np.arange(len(rows)) - first
    kept = place < GIST_TOKENS
    gist.points[latents[rows[kept]], place[kept]] = arrays["logit_token"][rows[kept]]


def _logit_arrays(table: pa.Table, tokens: TokenTable) -> dict[str, np.ndarray]:
    texts = table["token"].combine_chunks()
    texts = texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()
    models = {model: code for code, model in enumerate(MODELS)}
    sides = {side: code for code, side in enumerate(SIDES)}
    return {
        "logit_latent": table["latent"].to_numpy().astype(np.int32),
        "logit_model": np.asarray([models[model] for model in table["model"].to_pylist()], dtype=np.uint8),
        "logit_side": np.asarray([sides[side] for side in table["side"].to_pylist()], dtype=np.uint8),
        "logit_token": tokens.add(table["token_id"].to_numpy(), texts),
        "logit_value": table["value"].to_numpy().astype(np.float32),
    }


def _flat(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().flatten()


def _finite(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
