"""Optional parts of a run for tests of the report: a survey, a sweep, controls, limits, behaviors, rules."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.labels.rule import CLAIMED
from analysis.tables.columns import RULES
from crosscoder.run.folder import RunFolder

from .run_folder import HOSTILE


def survey() -> dict[str, Any]:
    """Return a survey.json whose most likely token is hostile."""
    changed = {"token_id": 1, "token": HOSTILE[0], "positions": 20, "share": 0.2, "mean_log_ratio": 1.0}
    return {
        "n_documents": 3,
        "predictions": {
            "n_tokens": 100,
            "kl": {
                "mean": 0.5, "median": 0.1, "p90": 1.0, "p99": 2.0, "max": 3.0, "largest_hundredth": 0.3,
                "template_mean": 0.25, "other_mean": 0.75,
                "by_position": [
                    {"first": 0, "last": 0, "n_tokens": 3, "mean": 0.1},
                    {"first": 4, "last": 7, "n_tokens": 9, "mean": 0.9},
                ],
            },
            "largest": [
                {
                    "kl": 3.0, "document": 0, "position": 4, "context": f"a | b{HOSTILE[0]}",
                    "reference": [[" The", 0.5]], "intervened": [[" Food", 0.9]],
                }
            ],
            "raised": [changed],
            "lowered": [],
        },
        "layers": [
            {
                "reference": index, "intervened": index, "cka": 1 - index / 100, "change": index / 100,
                "hookpoint": index == 7,
            }
            for index in range(31)
        ],
    }  # fmt: skip


def controls() -> dict[str, Any]:
    """Return the part of summary.json about all controls."""
    return {
        "names": [],
        "nulls": [{"name": "drift", "new": 3, "lost": 1, "alive": 150, "fve": {}}],
        "identity": {"name": "identity", "shared": 150, "alive": 150, "fve": {}},
        "shuffled": {"name": "shuffled", "shared": 3, "new": 70, "lost": 60, "alive": 150, "fve": {}},
        "seeds": 2,
        "difference_fve": 0.25,
        "difference_fve_mixed": 0.1,
        "difference_heard": True,
    }


def limits() -> list[dict[str, Any]]:
    """Return the curve of one limit, as in summary.json."""
    return [
        {
            "limit": "nu_error", "configured": 0.2, "values": [0.0, 0.1, 0.2, 0.3, 0.4], "new": [0, 19, 20, 21, 60],
            "lost": [0, 5, 5, 5, 5], "expected_false": [0, 1, 3, 9, 30],
        }
    ]  # fmt: skip


def plain_difference() -> list[dict[str, Any]]:
    """Return directions of the difference of activations, one of them with top tokens."""
    return [
        {"name": "mean", "share": 0.25, "top": [" food", HOSTILE[0]], "bottom": []},
        {"name": "mean of the first 8 positions", "share": 0.125, "top": [], "bottom": []},
        {"name": "component 1", "share": 0.5, "top": [], "bottom": []},
    ]


def swept(folder: RunFolder, chosen: int) -> None:
    """Add a sweep over two values of k, one of which was chosen."""
    n_latents = json.loads(folder.summary.read_text())["n_latents"]
    folder.sweep.mkdir()
    record = {
        "measure": "diff/explained_variance",
        "curve": [{"n_latents": n_latents, "k": k, "diff/explained_variance": k / 100} for k in (24, 32)],
        "chosen": {"n_latents": n_latents, "k": chosen},
    }
    (folder.sweep / "sweep.json").write_text(json.dumps(record))


def controlled(folder: RunFolder) -> Any:
    """Add every control with its columns, and return the table of the latents."""
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    summary |= {"controls": controls(), "limits": limits()}
    summary["counts"]["new"] |= {"expected_false": 3.0, "low": 5.0, "high": 9.0}
    summary["counts"]["lost"] |= {"expected_false": 1.0, "low": 2.0, "high": 4.0}
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    table: Any = pd.read_parquet(folder.features)
    claimed = table["label"].isin(CLAIMED)
    table["q_value"], table["seed_stability"] = 0.5, np.where(table["latent"] % 2 == 0, 1.0, 0.5)
    table["difference_cosine"] = np.where(claimed & (table["latent"] % 3 == 0), 0.9, 0.1)
    table.to_parquet(folder.features)
    return table


def estimate(value: float) -> dict[str, float]:
    """Return a number with an interval."""
    return {"value": value, "low": value - 0.0625, "high": value + 0.03125}


def checked(value: float) -> dict[str, Any]:
    """Return a causal check with two random draws."""
    random = {"random": [0.015625, -0.125], "random_mean": -0.0546875, "random_largest": 0.015625}
    return {**estimate(value), **random, "p_value": 0.046875, "passed": True}


def shifted(folder: RunFolder, name: str, *, established: bool = True) -> None:
    """Add a behavior: attributed, or with a shift that is not established."""
    place = BehaviorFolder(folder.behaviors / name)
    place.path.mkdir(parents=True)
    size = {
        "reference": estimate(0.25), "intervened": estimate(0.875), "size": estimate(0.625), "p_value": 0.0123,
        "floor": 0.375, "self_shift": None, "verdict": "established" if established else "below the noise floor",
        "established": established,
    }  # fmt: skip
    shift = {
        "schema_version": 1, "name": name, "description": HOSTILE[1], "metric": {}, "unit": "share of answers", "unrelated": not established,
        "n_prompts": 48,
        "n_held_out": 24, "shift": size, "stand_in": {"unit": "nats", **size, "size": estimate(17.5)}, "explained": established,
        "why_not": None if established else "no shift is established, so there is nothing to explain",
    }  # fmt: skip
    place.shift.write_text(json.dumps(shift))
    if established:
        place.attribution.write_text(json.dumps(attributed()))
        place.causal.write_text(json.dumps(checked_causally()))
        table = pd.DataFrame(
            {"latent": [3, 4], "share_held_out": [0.21875, 0.0781], "evidence": ["causal", "observed"]}
        )
        table.to_parquet(place.latents)


def attributed() -> dict[str, Any]:
    """Return an attribution.json."""
    parts = {
        name: {"value": estimate(1 / n), "share": estimate(1 / (n + 2))}
        for n, name in enumerate(("latents", "bias", "error", "left_out", "above", "represented"), start=3)
    }
    whole = {"above": parts.pop("above"), "represented": parts.pop("represented")}
    layers = [
        {
            "layer": index,
            "hookpoint": index == 3,
            "represented": estimate(index / 4),
            "above": estimate(1 - index / 4),
        }
        for index in range(5)
    ]
    held_out = {
        "total": estimate(17.5),
        "parts": parts,
        **whole,
        "residual": 0.007,
        "residual_share": 0.0044,
        "steps": 4,
    }
    return {"schema_version": 1, "unit": "nats", "find": held_out, "held_out": held_out, "layers": layers}


def checked_causally() -> dict[str, Any]:
    """Return a causal.json."""
    together = {"necessity": checked(0.71), "sufficiency": checked(0.83)}
    kinds = ("necessity", "sufficiency", "steering")
    cost = {"kl": estimate(0.0713), "perplexity": 26.75, "perplexity_changed": 26.99}
    return {
        "schema_version": 1, "named": [3, 4], "level": "causal", "confidence": 0.95, "n_prompts": 24, "together": together,
        "latents": [
            {"latent": latent, "evidence": level, "association_p": 0.001, **together}
            for latent, level in ((3, "causal"), (4, "observed"))
        ],
        "curve": [{"n": n} | {kind: estimate(n / 100) for kind in kinds} for n in (1, 55)],
        "remainder": {},
        "rebuilding": {"reference": estimate(0.011), "intervened": estimate(0.012)},
        "answers": {"n_prompts": 24, "together": together, "curve": [{"n": 55} | {kind: estimate(0.91) for kind in kinds}]},
        "removal_cost": cost,
        "steering": [
            {"model": model, "direction": direction, "dose": 1.5, "share": estimate(0.4), **cost}
            for model in ("reference", "intervened") for direction in ("named latents", "random")
        ],
    }  # fmt: skip


def ruled(folder: RunFolder) -> None:
    """Add rules of latents: a good one with hostile tokens, one at chance that saves no bits, and none for want of firings."""
    counts = {"n_tokens": 25_003, "n_firings_found_on": 44, "n_documents_found_on": 17}
    good = {
        "family": "token", "items": [HOSTILE[0], " 42", HOSTILE[3]], "negated": False, "text": f"token in {{“{HOSTILE[0]}”}}",
        "bits_saved": 81.25, "auroc": 0.96875, "auroc_low": 0.9375, "auroc_high": 0.984375, "activation_auroc": 0.875,
        "activation_auroc_low": 0.75, "activation_auroc_high": None, "n_firings": 61, "n_documents": 23,
    }  # fmt: skip
    bad = {
        **good, "family": "place", "items": ["text of a|b{"], "negated": True, "text": "place not in {“text of a|b{”}",
        "bits_saved": -2.5, "auroc": 0.515625, "auroc_low": None, "auroc_high": None,
    }  # fmt: skip
    none = {"reason": "undetermined: fires in 3 documents", "n_firings": 3, "n_documents": 3}
    n_latents = len(pd.read_parquet(folder.features, columns=["latent"]))
    rows = [
        {"latent": latent, **counts, **(good if latent % 3 == 0 else bad if latent % 3 == 1 else none)}
        for latent in range(n_latents)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=RULES.schema()), folder.rules)


def with_everything(folder: RunFolder) -> None:
    """Add all optional parts, and sources and a token policy with numbers in them."""
    controlled(folder)
    ruled(folder)
    swept(folder, 24)
    shifted(folder, "refusal")
    shifted(folder, "small_talk", established=False)
    folder.survey.write_text(json.dumps(survey()), encoding="utf-8")
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    summary["plain_difference"] = plain_difference()
    summary["monitoring"] = {
        "checkpoints": [{}, {}, {}], "onset": {"changed": 3, "named": 2},
        "alarm": {"rate": 0.05, "checkpoints": [{"name": HOSTILE[0], "rings": True, "n_latents": 7}, {"name": "b", "rings": False}]},
    }  # fmt: skip
    summary["difference_components"] = {"1": 0.5, "4": 0.75}
    summary["sources"] |= {"a{b": {"documents": 1, "tokens": 7}, "a|b": {"documents": 2, "tokens": 9}}
    summary["controls"]["nulls"].append({"name": HOSTILE[1], "new": 0, "lost": 2, "alive": 140})
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
    manifest["data"] = {
        "fingerprint": "6b46",
        "policy": {"mask_first": 1, "outlier_multiple": 10.0, "mask_special": True},
    }
    folder.manifest.write_text(json.dumps(manifest), encoding="utf-8")


def of_two_sizes(folder: RunFolder) -> None:
    """Make the models differ in width and tokenizer: labels are undefined, and a behavior is attributed within each model."""
    controlled(folder)
    table: Any = pd.read_parquet(folder.features)
    undefined = ["decoder_cosine", "nu_error", "nu_error_low", "nu_error_high", "shift_share", "q_value"]
    table[[column for column in undefined if column in table]] = np.nan
    table["label"] = "undetermined"
    table["reason"] = "the models differ in width, so directions and latent scaling cannot be compared"
    table.to_parquet(folder.features)
    folder.survey.write_text(json.dumps(survey() | {"predictions": None}), encoding="utf-8")
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    summary["fve"]["difference"] = summary["cosine"] = summary["relative_difference"] = None
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
    sides = {"reference": {"tokens": 1000, "rate": 0.9375}, "intervened": {"tokens": 1500, "rate": 0.625}}
    manifest["data"] = {"fingerprint": "6b46", "alignment": {"by": "characters", "places": 937, **sides}}
    folder.manifest.write_text(json.dumps(manifest), encoding="utf-8")
    shifted(folder, "lookup")
    place = BehaviorFolder(folder.behaviors / "lookup")
    attribution, causal = attributed(), checked_causally()
    held_out = attribution["held_out"]
    held_out |= {
        "represented": None,
        "above": None,
        "interaction": None,
        "baseline": {"share": estimate(0.3125)},
    }
    held_out["parts"]["bias"] = attribution["layers"] = None
    causal |= {
        "of": "intervened",
        "answers": None,
        "steering": [],
        "rebuilding": {"intervened": estimate(0.3)},
    }
    for entry in (causal["together"], *causal["latents"], *causal["curve"]):
        entry["sufficiency"] = None
    place.attribution.write_text(json.dumps(attribution))
    place.causal.write_text(json.dumps(causal))
