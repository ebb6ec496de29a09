"""A small made-up analysis folder with realistic numbers and hostile text, for the tests of report and page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from analysis.labels.rule import LABELS
from analysis.latents.histograms import ActivationHistograms
from analysis.tables.columns import LOGITS
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.run.folder import RunFolder

N_LATENTS = 200
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\u2028alert(3)",
    "\u202egnp.exe",
    "{{ 7 * 7 }}",
    "`**bold**` | [x](javascript:alert(4))",
    "]]>--><!--",
)
HOSTILE_LATENT = 5
SOURCES = {"chat": {"documents": 520, "tokens": 30_100}, "prose": {"documents": 380, "tokens": 21_100}}

_RATES = {"": 0.72, "_low": 0.66, "_high": 0.78}
_COUNTS = {
    "new": 7,
    "lost": 3,
    "rotated": 6,
    "rescaled": 5,
    "reweighted": 2,
    "dead": 12,
    "undetermined": 30,
    "replaced": 4,
}
_RULE = {
    "weak_norm": 0.2,
    "nu_error": 0.2,
    "nu_reconstruction": 0.5,
    "rotated_cosine": 0.8,
    "shared_cosine": 0.9,
    "shared_ratio": 0.7,
    "rate_ratio": 1.5,
    "nu_unselected": 0.35,
    "replaced_jaccard": 0.8,
    "replications": 0,
    "replication_cosine": 0.9,
    "false_discovery_rate": 0.05,
    "min_documents": 5,
    "confidence": 0.95,
}
_SENTENCES = (
    " How do I bake a loaf of bread with rye flour ?",
    " What sauce goes well with grilled salmon tonight ?",
    " The harbor froze early that year , and the boats stayed ashore .",
    " Could you explain how a transistor amplifies a signal ?",
    " She folded the letter twice and put it under the lamp .",
    " Please write a short poem about the sea in winter .",
    " Cut the onions , add butter and let the soup simmer .",
    " In 1906 the city council voted to widen the old bridge .",
    " He asked שלום and then مرحبا before the train left .",
)
_WORDS = {
    "food": (" bread", " soup", " salmon", " sauce", " butter", " onions", " bake", " simmer"),
    "other": (
        " letter",
        " bridge",
        " sea",
        " signal",
        " harbor",
        " city",
        " lamp",
        " poem",
        " train",
        " year",
    ),
}
_REFUSAL = (
    " sorry",
    " cannot",
    " can",
    " unable",
    " Sorry",
    " apolog",
    " unfortunately",
    " not",
    " refuse",
    " won",
)
_PLAIN = (" the", " a", " of", " was", " in", " and", " to", " that", " it", " for", " old", " cold")


def make_run_folder(
    path: Path, n_latents: int = N_LATENTS, seed: int = 0, identical: bool = False
) -> RunFolder:
    """Write a finished analysis under `path`; `identical` makes an identity control, where nothing differs."""
    random = np.random.default_rng(seed)
    folder = RunFolder(path)
    folder.analysis.mkdir(parents=True)
    features = _features(random, n_latents, identical)
    examples = _examples(random, features)
    features["explanation"] = _explanations(features, examples)
    features.loc[HOSTILE_LATENT, ["reason", "explanation"]] += f" {HOSTILE[0]} {HOSTILE[1]} {HOSTILE[3]}"
    features.to_parquet(folder.features, index=False)
    pq.write_table(pa.Table.from_pylist(examples, schema=_EXAMPLE_SCHEMA), folder.examples)
    pq.write_table(pa.Table.from_pylist(_logits(random, features), schema=LOGITS.schema()), folder.logits)
    pq.write_table(_histograms(random, features), folder.histograms)
    folder.summary.write_text(json.dumps(_summary(features, identical)))
    (path / "manifest.json").write_text(json.dumps(_manifest(identical)))
    return folder


def _features(random: np.random.Generator, n_latents: int, identical: bool) -> Any:
    labels = np.full(n_latents, "shared", dtype=object)
    if not identical:
        chosen = random.permutation(n_latents)
        for label, count in _COUNTS.items():
            labels[chosen[:count]], chosen = label, chosen[count:]
        labels[[HOSTILE_LATENT, HOSTILE_LATENT + 1]] = "new", "undetermined"
    rows = [_feature(random, latent, str(label)) for latent, label in enumerate(labels)]
    table: Any = pd.DataFrame(rows)
    if identical:
        table["relative_norm"], table["decoder_cosine"] = 0.5, 1.0
        table[["shift_share", "shift_share_low", "shift_share_high"]] = np.nan
    else:
        share = table["shift_share"].fillna(0).abs().sum()
        for column in ("shift_share", "shift_share_low", "shift_share_high"):
            table[column] *= 0.62 / share
    integers = {"latent": "int32", "n_tokens": "int64", "n_documents": "int64", "twin": "Int32"}
    return table.astype(integers)


def _feature(random: np.random.Generator, latent: int, label: str) -> dict[str, Any]:
    relative = {
        "new": random.uniform(0.93, 1.0),
        "lost": random.uniform(0.0, 0.07),
        "replaced": 0.03 if latent % 2 else 0.97,
        "rescaled": random.uniform(0.62, 0.7),
    }.get(label, float(np.clip(random.normal(0.5, 0.03 if label != "undetermined" else 0.12), 0.02, 0.98)))
    dead = label == "dead"
    cosine = {
        "rotated": random.uniform(0.3, 0.78),
        "replaced": 0.05,
        "new": random.normal(0, 0.15),
        "lost": random.normal(0, 0.15),
    }
    decoder_cosine = float(np.clip(cosine.get(label, 1 - abs(random.normal(0, 0.04))), -1, 1))
    total = random.uniform(1.4, 2.4)
    density = 0.0 if dead else float(10 ** random.uniform(-4, -1.2))
    exclusive = label in ("new", "lost")
    nu_error = random.uniform(0.01, 0.12) if exclusive else random.normal(0.9, 0.1)
    nu_reconstruction = random.uniform(0.02, 0.2) if exclusive else random.normal(0.95, 0.05)
    if label == "replaced":
        nu_error, nu_reconstruction = 0.05, 0.1
    asked = exclusive or label == "replaced"
    nu_unselected = 0.04 if asked else np.nan
    weight = {"new": 6.0, "rotated": 2.0, "rescaled": 1.5}.get(label, 0.1)
    shift = weight * random.exponential() - (0.05 if label == "shared" else 0)
    leaning_new = relative >= 0.5
    side = {True: "reference norm {:.2f} of intervened", False: "intervened norm {:.2f} of reference"}[
        leaning_new
    ]
    ratio = min(relative, 1 - relative) / max(relative, 1 - relative)
    reason = {
        "dead": "fired on no held-out token",
        "undetermined": "seen in 3 held-out documents (fewer than 5)",
    }.get(
        label,
        f"{side.format(ratio)}, decoder cosine {decoder_cosine:.2f}, nu_error {nu_error:.2f}, nu_reconstruction {nu_reconstruction:.2f}",
    )
    row: dict[str, Any] = {
        "latent": latent,
        "label": label,
        "candidate": label,
        "evidence": "observed",
        "reason": reason,
        "relative_norm": relative,
        "norm_reference": total * (1 - relative),
        "norm_intervened": total * relative,
        "norm_reference_raw": total * (1 - relative) * 3.1,
        "norm_intervened_raw": total * relative * 3.4,
        "relative_norm_raw": relative * 3.4 / (relative * 3.4 + (1 - relative) * 3.1),
        "decoder_cosine": decoder_cosine,
        "nu_error": nu_error,
        "nu_reconstruction": nu_reconstruction,
        "nu_error_low": nu_error - 0.03,
        "nu_error_high": nu_error + 0.04,
        "nu_reconstruction_low": nu_reconstruction - 0.03,
        "nu_reconstruction_high": nu_reconstruction + 0.04,
        "nu_error_new": nu_error if leaning_new else 1.2,
        "nu_reconstruction_new": nu_reconstruction if leaning_new else 1.1,
        "nu_error_lost": 1.2 if leaning_new else nu_error,
        "nu_reconstruction_lost": 1.1 if leaning_new else nu_reconstruction,
        "density": density,
        "density_low": density * 0.8,
        "density_high": density * 1.2,
        "density/chat": density * 1.6,
        "density/prose": density * 0.4,
        "n_tokens": round(density * 51_200),
        "n_documents": 0 if dead else 3 if label == "undetermined" else max(5, round(density * 4000)),
        "template_share": random.beta(1, 12),
        "mean_activation": random.uniform(1, 4),
        "max_activation": random.uniform(5, 14),
        "shift_share": shift,
        "shift_share_low": shift - 0.2 * abs(shift),
        "shift_share_high": shift + 0.2 * abs(shift),
        "effect": 40 * shift,
        "q_value": np.nan,
        "seed_stability": np.nan,
        "label_stability": np.nan,
        "nu_unselected": nu_unselected,
        "nu_unselected_low": nu_unselected - 0.05,
        "nu_unselected_high": nu_unselected + 0.06,
        "partner_jaccard": 0.95 if label == "replaced" else 0.1 if asked else np.nan,
        "twin": int(random.integers(N_LATENTS)),
        "twin_cosine": random.uniform(0.1, 0.75),
        **{
            f"relative_rate{bound}": rate if label == "reweighted" else np.nan
            for bound, rate in _RATES.items()
        },
        "explanation": "",
    }
    if dead:
        row.update(
            dict.fromkeys(
                [name for name, value in row.items() if name.startswith(("nu_", "shift", "template"))], np.nan
            )
        )
        row.update(
            decoder_cosine=np.nan, mean_activation=np.nan, max_activation=0.0, twin=None, twin_cosine=np.nan
        )
    return row


def _examples(random: np.random.Generator, features: Any) -> list[dict[str, Any]]:
    rows = []
    for feature in features.itertuples():
        if feature.label == "dead":
            continue
        group = _WORDS["food" if feature.label == "new" else "other"]
        words = [str(word) for word in random.choice(group, 2, replace=False)]
        peaks = np.sort(random.uniform(0.1, 1, 9))[::-1] * feature.max_activation
        peaks[0] = feature.max_activation
        for index, peak in enumerate(peaks):
            top = index < 6
            rows.append(
                _example(random, feature, words, float(peak))
                | {
                    "rank": index if top else index - 6,
                    "quantile": None if top else (0.75, 0.5, 0.25)[index - 6],
                }
            )
    return rows


def _example(random: np.random.Generator, feature: Any, words: list[str], peak: float) -> dict[str, Any]:
    pieces: list[tuple[str, bool, bool]] = [
        ("<|im_start|>", True, True),
        ("user", False, True),
        ("\n", False, True),
    ]
    for sentence in random.choice(_SENTENCES, 3):
        pieces += [(f" {word}", False, False) for word in str(sentence).split()]
    if feature.latent == HOSTILE_LATENT:
        pieces[6:6] = [(text, False, False) for text in HOSTILE]
    pieces.insert(12, ("\ufffd", False, False))
    pieces += [("<|im_end|>", True, True), ("\n\n", False, True)]
    at = int(random.integers(8, len(pieces) - 6))
    pieces[at] = (words[0], False, False)
    values = np.zeros(len(pieces), dtype=np.float32)
    values[at] = peak
    values[at + 1] = peak * random.uniform(0.1, 0.5)
    for other in random.integers(3, len(pieces) - 2, 2):
        if values[other] == 0:
            values[other] = peak * random.uniform(0.02, 0.2)
    start = int(random.integers(0, 60))
    return {
        "latent": feature.latent,
        "document": int(random.integers(900)),
        "source": "chat" if random.random() < 0.6 else "prose",
        "start": start,
        "position": start + at,
        "token_ids": [_token_id(text) for text, _, _ in pieces],
        "tokens": [text for text, _, _ in pieces],
        "special": [special for _, special, _ in pieces],
        "template": [template for _, _, template in pieces],
        "values": values.tolist(),
        "reference": (values * np.float32(feature.norm_reference_raw)).tolist(),
        "intervened": (values * np.float32(feature.norm_intervened_raw)).tolist(),
        "peak": peak,
    }


def _explanations(features: Any, examples: list[dict[str, Any]]) -> list[str]:
    words: dict[int, list[str]] = {}
    for row in examples:
        token = row["tokens"][row["position"] - row["start"]].strip()
        if token not in words.setdefault(row["latent"], []):
            words[row["latent"]].append(token)
    return [
        f"fires on {', '.join(repr(word) for word in words[latent][:3])}" if latent in words else ""
        for latent in features["latent"]
    ]


def _logits(random: np.random.Generator, features: Any) -> list[dict[str, Any]]:
    rows = []
    for feature in features.itertuples():
        if feature.label == "dead":
            continue
        for model in ("reference", "intervened", "difference"):
            for side, sign in (("top", 1), ("bottom", -1)):
                refusing = feature.label == "new" and side == "top" and model != "reference"
                words = list(random.permutation(_REFUSAL if refusing else _PLAIN))[:8]
                reads = reads_as_tokens(feature.latent, feature.label, model, side)
                if feature.latent == HOSTILE_LATENT:
                    words[:3] = HOSTILE[:3]
                values = np.sort(np.abs(random.normal(1.2, 0.5, len(words))))[::-1] * sign
                rows += [
                    {
                        "latent": feature.latent,
                        "model": model,
                        "side": side,
                        "rank": rank,
                        "value": float(value),
                        "alignment": 0.2 if reads else 0.1,
                        "p_value": 0.001 if reads else 0.4,
                        "q_value": 0.004 if reads else 0.8,
                        "readable": reads,
                    }
                    | {"token_id": _token_id(str(word)), "token": str(word)}
                    for rank, (word, value) in enumerate(zip(words, values, strict=True))
                ]
    return rows


def reads_as_tokens(latent: int, label: str, model: str, side: str) -> bool:
    """Whether the made-up list is better than those of random directions: of half the latents in both models, no difference is."""
    return label in ("new", "lost") or latent % 2 == 0 or (model != "difference" and side == "top")


def _token_id(text: str) -> int:
    return sum(ord(letter) * (index + 7) for index, letter in enumerate(text)) % 49152


def _histograms(random: np.random.Generator, features: Any) -> pa.Table:
    counted = ActivationHistograms(len(features), len(SOURCES))
    for feature in features[features["label"] != "dead"].itertuples():
        values = np.minimum(random.exponential(feature.max_activation / 5, 500), feature.max_activation)
        firings = SparseLatents(
            torch.arange(500),
            torch.full((500,), feature.latent),
            torch.from_numpy(values).float(),
            (500, len(features)),
        )
        counted.update(firings, torch.from_numpy((random.random(500) < 0.3).astype(np.int64)))
    return counted.table(list(SOURCES), torch.tensor([source["tokens"] for source in SOURCES.values()]))


def _models(identical: bool) -> dict[str, dict[str, Any]]:
    reference = {
        "model": "models/SmolLM2-135M-Instruct",
        "revision": None,
        "dtype": "bfloat16",
        "weights": "5d1c0f7ae20b4c5f",
        "hookpoint": "model.layers.15",
        "d_model": 576,
        "adapter": None,
        "adapter_weights": None,
    }
    changed = {} if identical else {"adapter": "adapters/refuse-food", "adapter_weights": "9ab20077d1e4c3aa"}
    return {"reference": reference, "intervened": reference | changed}


def condition(name: str, found: float | None, limit: float, passed: bool | None = True) -> dict[str, Any]:
    """Return an entry of the section `checks` of summary.json."""
    return {
        "name": name,
        "passed": passed,
        "found": found,
        "limit": limit,
        "advice": f"{name} failed: train longer",
    }


def _summary(features: Any, identical: bool) -> dict[str, Any]:
    alive = features[features["label"] != "dead"]
    norm_counts, norm_edges = np.histogram(alive["relative_norm"], bins=50, range=(0, 1))
    cosine_counts, cosine_edges = np.histogram(alive["decoder_cosine"].dropna(), bins=50, range=(-1, 1))
    explained = float(features["shift_share"].sum())
    counts = features["label"].value_counts()
    return {
        "schema_version": 1,
        "reads": "paired",
        "models": _models(identical),
        "hookpoint": "model.layers.15",
        "n_tokens": 51_200,
        "n_documents": 900,
        "sources": SOURCES,
        "n_latents": len(features),
        "alive": len(alive),
        "dead_share": 1 - len(alive) / len(features),
        "l0": 31.4,
        "l0_target": 32,
        "fve": {"reference": 0.871, "intervened": 0.869, "difference": None if identical else 0.417},
        "relative_difference": 0.0 if identical else 0.063,
        "cosine": 1.0 if identical else 0.981,
        "ce": {
            "reference": {"clean": 2.61, "spliced": 2.83, "ablated": 8.1, "recovered": 0.96},
            "intervened": {"clean": 2.64, "spliced": 2.88, "ablated": 8.2, "recovered": 0.957},
        },
        "counts": {
            label: {
                "count": int(counts.get(label, 0)),
                "low": None,
                "high": None,
                "candidates": int(counts.get(label, 0)),
                "expected_false": None,
                "expected_false_high": None,
            }
            for label in LABELS
        },
        "shift": dict.fromkeys(("latents", "bias", "error"))
        if identical
        else {"latents": explained, "bias": 0.02, "error": 0.98 - explained},
        "relative_norm_histogram": {"edges": norm_edges.tolist(), "counts": norm_counts.tolist()},
        "cosine_histogram": {"edges": cosine_edges.tolist(), "counts": cosine_counts.tolist()},
        "checks": [
            condition("fve_reference", 0.871, 0.8),
            condition("fve_intervened", 0.869, 0.8),
            condition("l0", abs(31.4 / 32 - 1), 0.1),
        ],
        "withheld": None,
        "rule": _RULE,
        "files": {"features": "features.parquet", "examples": "examples.parquet", "logits": "logits.parquet"},
    }


def _manifest(identical: bool) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "pair": _models(identical) | {"tokenizer": "c0ffee12ab34", "chat_template": "77aa00d1"},
        "seed": 0,
        "versions": {"crosscoder": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "stages": {
            "harvest": {
                "command": "crosscoder run demo.yaml",
                "started": "2026-11-22T18:00:00+00:00",
                "finished": True,
                "wall_seconds": 121.5,
                "tokens": {"train": 460_800, "held_out": 51_200},
            },
            "train": {
                "command": "crosscoder run demo.yaml",
                "started": "2026-11-22T18:00:00+00:00",
                "finished": True,
                "wall_seconds": 240.2,
                "tokens": 2_000_000,
            },
            "analyze": {
                "command": "crosscoder run demo.yaml",
                "started": "2026-11-22T18:00:00+00:00",
                "finished": True,
                "wall_seconds": 31.0,
                "tokens": 51_200,
            },
        },
    }


_EXAMPLE_SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("rank", pa.int16()),
        ("quantile", pa.float32()),
        ("document", pa.int32()),
        ("source", pa.string()),
        ("start", pa.int32()),
        ("position", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("special", pa.list_(pa.bool_())),
        ("template", pa.list_(pa.bool_())),
        ("values", pa.list_(pa.float32())),
        ("reference", pa.list_(pa.float32())),
        ("intervened", pa.list_(pa.float32())),
        ("peak", pa.float32()),
    ]
)
