"""A made-up run of any size to benchmark the page: every file that `analyze` writes, with plausible random numbers.

Tokens follow Zipf's law over a vocabulary of made-up words, and each latent fires on a few tokens in addition to its peak.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from crosscoder.config import LabelRule
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import SCHEMA_VERSION
from ..tables.columns import EXAMPLES, HISTOGRAMS, LOGITS

N_EXAMPLES = 20
"""Examples per latent that fires: 14 strongest, 6 across quantiles."""

TOKENS = 40
"""Tokens per example."""

_TOP = 14
_LOGITS = 10
_VOCABULARY = 49_152
_DOCUMENTS = 20_000
_HELD_OUT = 4_000_000
_LATENTS = 1024  # written at a time
_BINS = 32
_SOURCES = {
    "chat": {"documents": 12_000, "tokens": 2_400_000},
    "prose": {"documents": 8_000, "tokens": 1_600_000},
}
# Latents per thousand with each label; the others are shared.
_LABELS = {
    "new": 8,
    "lost": 4,
    "rotated": 30,
    "rescaled": 8,
    "reweighted": 5,
    "undetermined": 80,
    "dead": 25,
}
Columns = dict[str, np.ndarray]


def write_large_run(path: Path, n_latents: int, seed: int = 0) -> RunFolder:
    """Write the analysis of a dictionary with `n_latents` latents to `path`; memory does not grow with the number of examples."""
    random = np.random.default_rng(seed)
    folder = RunFolder(path)
    folder.analysis.mkdir(parents=True)
    words = _words()
    columns = _features(random, n_latents)
    pq.write_table(pa.table(columns), folder.features)
    alive = np.flatnonzero(columns["label"] != "dead")
    groups = np.split(alive, np.arange(_LATENTS, len(alive), _LATENTS))
    _write(folder.examples, EXAMPLES.schema(), (_examples(random, group, columns, words) for group in groups))
    _write(folder.logits, LOGITS.schema(), (_logits(random, group, words) for group in groups))
    largest = columns["max_activation"]
    _write(folder.histograms, HISTOGRAMS.schema(), (_histograms(random, group, largest) for group in groups))
    folder.summary.write_text(json.dumps(_summary(columns)))
    return folder


def _words() -> pa.Array:
    """Return distinct words, shorter ones first; all but every eighth start with a space."""
    syllables = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou")]
    found = [*syllables, *map("".join, product(syllables, syllables))]
    found += map("".join, product(syllables, syllables, syllables))
    return pa.array(
        [word if index % 8 == 7 else f" {word}" for index, word in enumerate(found[:_VOCABULARY])]
    )


def _zipf(random: np.random.Generator, size: int) -> Int64[np.ndarray, " token"]:
    """Sample ranks with probability proportional to 1 / rank: the logarithm of the rank is uniform."""
    return np.exp(random.uniform(0, np.log(_VOCABULARY), size)).astype(np.int64) - 1


def _features(random: np.random.Generator, n_latents: int) -> Columns:
    labels = np.full(n_latents, "shared", dtype=object)
    counts = [round(count * n_latents / 1000) for count in _LABELS.values()]
    labeled = random.permutation(n_latents)[: sum(counts)]
    labels[labeled] = np.repeat(list(_LABELS), counts)
    has = {label: labels == label for label in _LABELS}
    columns: Columns = {
        "latent": np.arange(n_latents, dtype=np.int32),
        "label": labels,
        "evidence": np.full(n_latents, "observed"),
    }
    relative = np.clip(random.normal(0.5, 0.03, n_latents), 0.02, 0.98)
    relative[has["new"]] = random.uniform(0.9, 1, has["new"].sum())
    relative[has["lost"]] = random.uniform(0, 0.1, has["lost"].sum())
    cosine = np.clip(1 - np.abs(random.normal(0, 0.04, n_latents)), -1, 1)
    differs = has["new"] | has["lost"] | has["rotated"] | has["undetermined"]
    cosine[differs] = random.uniform(-0.2, 0.85, differs.sum())
    total = random.uniform(1.4, 2.4, n_latents)
    columns |= {
        "relative_norm": relative,
        "norm_reference": total * (1 - relative),
        "norm_intervened": total * relative,
        "norm_reference_raw": total * (1 - relative) * 3,
        "norm_intervened_raw": total * relative * 3,
        "relative_norm_raw": relative,
        "decoder_cosine": cosine,
    }
    for name in ("nu_error", "nu_reconstruction"):
        value = np.where(has["new"] | has["lost"], 0.1, 0.9) + random.normal(0, 0.05, n_latents)
        columns |= {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}
        columns |= {f"{name}_new": value, f"{name}_lost": value + 0.1}
    density = np.where(has["dead"], 0, 10 ** random.uniform(-5, -1, n_latents))
    shift = random.exponential(np.where(differs, 10, 1), n_latents)
    shift /= shift.sum()
    for name, value in {"density": density, "shift_share": shift}.items():
        columns |= {name: value, f"{name}_low": 0.8 * value, f"{name}_high": 1.2 * value}
    n_tokens = np.round(density * _HELD_OUT).astype(np.int64)
    columns |= {
        "density/chat": 1.4 * density,
        "density/prose": 0.6 * density,
        "n_tokens": n_tokens,
        "n_documents": np.minimum(n_tokens, _DOCUMENTS),
        "template_share": random.beta(1, 12, n_latents),
        "mean_activation": random.uniform(1, 4, n_latents),
        "max_activation": np.where(has["dead"], 0, random.uniform(5, 14, n_latents)),
        "q_value": random.uniform(0, 1, n_latents),
        "seed_stability": random.uniform(0, 1, n_latents),
        "twin": random.integers(n_latents, size=n_latents).astype(np.int32),
        "twin_cosine": random.uniform(0.1, 0.9, n_latents),
    }
    words = _words().to_pylist()
    named = _zipf(random, 2 * n_latents).reshape(n_latents, 2)
    columns["reason"] = np.asarray(
        [
            f"decoder cosine {found:.2f}, relative norm {norm:.2f}"
            for found, norm in zip(cosine, relative, strict=True)
        ]
    )
    columns["explanation"] = np.asarray(
        [f"Fires on “{words[first]}” and “{words[second]}”; made up." for first, second in named.tolist()]
    )
    return columns


def _examples(
    random: np.random.Generator, latents: np.ndarray, columns: Columns, words: pa.Array
) -> pa.Table:
    n_rows = len(latents) * N_EXAMPLES
    rank = np.tile([*range(_TOP), *range(N_EXAMPLES - _TOP)], len(latents))
    quantile = np.tile([*[np.nan] * _TOP, *np.linspace(0.9, 0.1, N_EXAMPLES - _TOP)], len(latents)).astype(
        np.float32
    )
    ids = _zipf(random, n_rows * TOKENS).reshape(n_rows, TOKENS)
    at = random.integers(4, TOKENS - 4, n_rows)
    # Each latent peaks on three tokens of its own.
    peak_tokens = _zipf(random, 3 * len(latents)).reshape(-1, 3).repeat(N_EXAMPLES, axis=0)
    ids[np.arange(n_rows), at] = peak_tokens[np.arange(n_rows), random.integers(3, size=n_rows)]
    share = np.where(np.isnan(quantile), 1 - 0.03 * rank, quantile)
    peak = columns["max_activation"][latents].repeat(N_EXAMPLES) * share
    fires = random.random((n_rows, TOKENS)) < 0.06
    values = np.where(fires, peak[:, None] * random.uniform(0.02, 0.6, (n_rows, TOKENS)), 0)
    values[np.arange(n_rows), at] = peak
    values = values.astype(np.float32)
    start = random.integers(0, 400, n_rows)
    special = np.zeros((n_rows, TOKENS), dtype=bool)
    special[:, 0] = start == 0
    offsets = np.arange(0, n_rows * TOKENS + 1, TOKENS, dtype=np.int32)

    def lists(flat: Any) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, flat)

    found: dict[str, Any] = {
        "latent": latents.repeat(N_EXAMPLES),
        "rank": rank,
        "quantile": pa.array(quantile, from_pandas=True),
        "document": random.integers(_DOCUMENTS, size=n_rows),
        "source": np.where(random.random(n_rows) < 0.6, "chat", "prose"),
        "start": start,
        "position": start + at,
        "token_ids": lists(pa.array(ids.ravel())),
        "tokens": lists(words.take(pa.array(ids.ravel()))),
        "special": lists(pa.array(special.ravel())),
        "template": lists(pa.array((ids < 3).ravel())),
        "values": lists(pa.array(values.ravel())),
        "peak": peak.astype(np.float32),
    }
    for side in ("reference", "intervened"):
        norms = columns[f"norm_{side}_raw"][latents].repeat(N_EXAMPLES).astype(np.float32)
        found[side] = lists(pa.array((values * norms[:, None]).ravel()))
    return pa.table({name: found[name] for name in EXAMPLES.schema().names}).cast(EXAMPLES.schema())


def _logits(random: np.random.Generator, latents: np.ndarray, words: pa.Array) -> pa.Table:
    tables = ("difference", "intervened", "reference")
    sides = ("bottom", "top")
    n_rows = len(latents) * len(tables) * len(sides) * _LOGITS
    ids = random.integers(_VOCABULARY, size=n_rows)
    value = np.sort(random.exponential(1, (n_rows // _LOGITS, _LOGITS)), axis=1)[:, ::-1]
    sign = np.tile([-1, 1], n_rows // (2 * _LOGITS))[:, None]
    return pa.table(
        {
            "latent": latents.repeat(len(tables) * len(sides) * _LOGITS),
            "model": np.tile(np.repeat(tables, len(sides) * _LOGITS), len(latents)),
            "side": np.tile(np.repeat(sides, _LOGITS), len(latents) * len(tables)),
            "rank": np.tile(np.arange(_LOGITS), n_rows // _LOGITS),
            "token_id": ids,
            "token": words.take(pa.array(ids)),
            "value": (sign * value).ravel(),
            "alignment": value.ravel() / 10,
            "p_value": np.full(n_rows, 0.01),
            "q_value": np.full(n_rows, 0.04),
            "readable": np.ones(n_rows, dtype=bool),
        }
    ).cast(LOGITS.schema())


def _histograms(random: np.random.Generator, latents: np.ndarray, largest: np.ndarray) -> pa.Table:
    """Return exponentially falling counts for each source, in 17 to 32 bins as `analyze` writes them."""
    mantissa, exponent = np.frexp(largest[latents])
    n_bins = (mantissa * _BINS).astype(np.int64) + 1
    n_sources = len(_SOURCES)
    shown = np.arange(_BINS) < n_bins.repeat(n_sources)[:, None]
    rates = 4000 * np.exp(-np.linspace(0, 6, _BINS))
    counts = random.poisson(rates, shown.shape)[shown]
    offsets = np.concatenate([[0], np.cumsum(n_bins.repeat(n_sources))])
    return HISTOGRAMS.build(
        {
            "latent": latents.repeat(n_sources),
            "source": list(_SOURCES) * len(latents),
            "tokens": [source["tokens"] for source in _SOURCES.values()] * len(latents),
            "width": (np.ldexp(1.0, exponent) / _BINS).repeat(n_sources),
            "counts": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(counts)),
        }
    )


def _summary(columns: Columns) -> dict[str, Any]:
    labels, counts = np.unique(columns["label"].astype(str), return_counts=True)
    model = {"model": "made up", "revision": None, "dtype": "bfloat16", "hookpoint": "model.layers.15"}
    return {
        "schema_version": SCHEMA_VERSION,
        "reads": "paired",
        "models": {"reference": model, "intervened": model | {"adapter": "made up"}},
        "hookpoint": "model.layers.15",
        "n_tokens": _HELD_OUT,
        "n_documents": _DOCUMENTS,
        "sources": _SOURCES,
        "n_latents": len(columns["latent"]),
        "dead_share": float(np.mean(columns["label"] == "dead")),
        "l0": 100.0,
        "l0_target": 100,
        "fve": {"reference": 0.87, "intervened": 0.86, "difference": 0.45},
        "relative_difference": 0.06,
        "ce": {"reference": {"recovered": 0.96}, "intervened": {"recovered": 0.95}},
        "counts": {
            label: {"count": int(count), "low": None, "high": None, "expected_false": None}
            for label, count in zip(labels, counts, strict=True)
        },
        "rule": LabelRule().model_dump(mode="json"),
    }


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
