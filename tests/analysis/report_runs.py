"""Optional parts of a run for tests of the report: a survey, a sweep, controls, limits, behaviors, rules."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.labels.rule import CLAIMED
from analysis.report.render import PAGES
from analysis.tables.columns import RULES
from crosscoder.run.folder import RunFolder

from .discovery_records import discovered
from .run_folder import HOSTILE, condition


def report_text(folder: RunFolder, form: str = "md") -> str:
    """Return the report and its appendix, one after the other, as Markdown or HTML."""
    return "\n".join((folder.report / f"{page}.{form}").read_text(encoding="utf-8") for page in PAGES)


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
        "nulls": [
            {"name": "drift", "new": 3, "lost": 1, "alive": 150, "fve": {}},
            {"name": "intermittent", "new": 2, "lost": 0, "alive": 140, "fve": {}},
        ],
        "identity": {"name": "identity", "shared": 150, "alive": 150, "fve": {}},
        "shuffled": {"name": "shuffled", "shared": 3, "new": 70, "lost": 60, "alive": 150, "fve": {}},
        "seeds": 2,
        "difference_fve": 0.25,
        "difference_fve_mixed": 0.1,
        "difference_heard": True,
    }


def control_conditions(failed: str | None = None) -> list[dict[str, Any]]:
    """Return the conditions on the controls, as in summary.json; one may have failed."""
    conditions = [
        ("drift_trained", 0.84375, 0.8125, 0.5), ("intermittent_trained", 0.859375, 0.8125, 0.5),
        ("identity_trained", 0.875, 0.7265625, 0.25), ("identity_unchanged", 0.0, 0.01, 0.375),
        ("shuffled_parted", 0.0234375, 0.1, 0.9375),
    ]  # fmt: skip
    return [
        condition(name, worse if name == failed else found, limit, name != failed)
        for name, found, limit, worse in conditions
    ]


def change(largest: str = "offset") -> dict[str, Any]:
    """Return the section `change` of summary.json, with a part that is larger than the others."""
    shares = {
        "offset": 0.0625, "one_sided": 0.125, "subspaces": 0.03125, "map": 0.046875, "two_sided": 0.015625,
        "other_latents": 0.109375, "bias": 0.0078125, "error": 0.21875,
    }  # fmt: skip
    shares[largest] += 1 - sum(shares.values())
    parts = {
        name: {"share": share, "low": share - 0.00390625, "high": share + 0.00390625}
        for name, share in shares.items()
    }
    classes = [
        {"name": name, "token_share": share, "carried": 0.9375, "cosine": 0.96875, "established": True}
        for name, share in (("first", 0.03125), ("template", 0.21875), ("other", 0.75))
    ]
    subspace = {
        "dimension": 8, "stability": 0.953125, "smallest": 0.921875, "chance": 0.34375, "p": 0.01171875, "token_share": 0.0205078125,
    }  # fmt: skip
    return {
        "offset": {"established": True, "reason": "", "classes": classes},
        "map": {"established": True, "reason": "", "rank": 3},
        "subspaces": [subspace], "subspaces_reason": "", "parts": parts, "largest": largest,
    }  # fmt: skip


def limits() -> list[dict[str, Any]]:
    """Return the curve of one limit, as in summary.json."""
    return [
        {
            "limit": "nu_error", "configured": 0.2, "values": [0.0, 0.1, 0.2, 0.3, 0.4], "new": [0, 19, 20, 21, 60],
            "lost": [0, 5, 5, 5, 5], "expected_false": [0, 1, 3, 9, 30],
        }
    ]  # fmt: skip


def plain_difference() -> list[dict[str, Any]]:
    """Return directions of the difference of activations: with tokens that read on one side, without tokens, with tokens that do not read."""
    neither = {"top": False, "bottom": False}
    return [
        {
            "name": "mean",
            "share": 0.25,
            "top": [" food", HOSTILE[0]],
            "bottom": ["verty"],
            "readable": {"top": True, "bottom": False},
        },
        {
            "name": "mean of the first 8 positions",
            "share": 0.125,
            "top": [],
            "bottom": [],
            "readable": neither,
        },
        {"name": "component 1", "share": 0.5, "top": ["orer"], "bottom": ["TType"], "readable": neither},
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
    summary["checks"] += control_conditions()
    summary["rule"]["replications"] = 2
    summary["counts"]["new"] |= {"expected_false": 3.0, "expected_false_high": 7.75, "low": 5.0, "high": 9.0}
    summary["counts"]["lost"] |= {"expected_false": 0.0, "expected_false_high": 3.0, "low": 2.0, "high": 4.0}
    summary["counts"]["rotated"]["candidates"] += 9
    folder.summary.write_text(json.dumps(summary), encoding="utf-8")
    table: Any = pd.read_parquet(folder.features)
    claimed = table["label"].isin(CLAIMED)
    table["q_value"] = np.where(claimed, 0.0078125, 1.0)
    table["seed_stability"] = np.where(claimed | (table["latent"] % 2 == 0), 1.0, 0.5)
    # Of the undetermined latents, some would be called changed by this training alone.
    removed = table.index[table["label"] == "undetermined"][:9]
    table.loc[removed, ["candidate", "q_value", "seed_stability"]] = ["rotated", 0.015625, 0.5]
    table["label_stability"] = np.where(claimed, 1.0, np.where(table["candidate"] == "rotated", 0.5, np.nan))
    table["difference_cosine"] = np.where(claimed & (table["latent"] % 3 == 0), 0.9, 0.1)
    table.to_parquet(folder.features)
    return table


def estimate(value: float) -> dict[str, float]:
    """Return a number with an interval."""
    return {"value": value, "low": value - 0.0625, "high": value + 0.03125}


def checked(value: float, passed: bool = True) -> dict[str, Any]:
    """Return a causal check with two random draws; one that is not passed is reached by one of them."""
    random = [0.015625, -0.125 if passed else value + 0.25]
    return {
        **estimate(value), "made": True, "why_not": None, "needs": None, "random": random, "random_mean": sum(random) / 2,
        "random_largest": max(random), "at_norm": None, "excess": estimate(value - sum(random) / 2),
        "p_value": 0.00390625 if passed else 0.6640625, "p_adjusted": 0.0078125 if passed else 1.0, "passed": passed,
    }  # fmt: skip


def unchecked(value: float, **needs: int) -> dict[str, Any]:
    """Return a causal check that was not made, and what it would need: `prompts` or `draws`."""
    return checked(value) | {
        "made": False, "why_not": "too few", "needs": needs or None, "random": [], "random_mean": None, "random_largest": None,
        "excess": None, "p_value": None, "p_adjusted": None, "passed": None,
    }  # fmt: skip


_POWER: dict[str, dict[str, Any]] = {
    "established": {"n_prompts": 24, "prompts_needed": 12, "detectable": 0.28125, "detectable_when_enough": 0.28125},
    "below the noise floor": {
        "n_prompts": 24, "prompts_needed": 12, "detectable": 0.28125, "detectable_when_enough": 0.28125,
    },
    "not enough prompts": {
        "n_prompts": 5, "prompts_needed": 14, "detectable": None, "detectable_when_enough": 0.34375,
    },
    "no difference": {"n_prompts": 24, "prompts_needed": 12, "detectable": None, "detectable_when_enough": None},
    "smaller than asked": {
        "n_prompts": 24, "prompts_needed": 12, "detectable": 0.28125, "detectable_when_enough": 0.28125,
    },
}  # fmt: skip


def shifted(
    folder: RunFolder,
    name: str,
    *,
    established: bool = True,
    verdict: str | None = None,
    unrelated: bool | None = None,
) -> None:
    """Add a behavior: attributed, or with a shift that is not established."""
    place = BehaviorFolder(folder.behaviors / name)
    place.path.mkdir(parents=True)
    verdict = verdict or ("established" if established else "below the noise floor")
    established = verdict == "established"
    size = {
        "reference": estimate(0.25), "intervened": estimate(0.875), "size": estimate(0.625), "p_value": 0.0123,
        "floor": 0.375, "self_shift": None, "verdict": verdict, "established": established, **_POWER[verdict],
    }  # fmt: skip
    shift = {
        "schema_version": 2, "name": name, "description": HOSTILE[1], "metric": {}, "unit": "share of answers",
        "unrelated": not established if unrelated is None else unrelated,
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
        "cancellation": {
            "along": {"value": estimate(21.0), "share": estimate(1.1875), "latents": 31},
            "against": {"value": estimate(-3.5), "share": estimate(-0.203125), "latents": 27},
            "ratio": 0.171875,
        },
    }
    return {"schema_version": 2, "unit": "nats", "find": held_out, "held_out": held_out, "layers": layers}


def checked_causally() -> dict[str, Any]:
    """Return a causal.json."""
    together = {"necessity": checked(0.71), "sufficiency": checked(0.83)}
    against = {"necessity": checked(0.15625), "sufficiency": checked(0.0625, passed=False)}
    kinds = ("necessity", "sufficiency", "steering")
    cost = {"kl": estimate(0.0713), "perplexity": 26.75, "perplexity_changed": 26.99}
    return {
        "schema_version": 2, "unit": "nats", "named": [3, 4], "level": "causal", "set_passed": True, "confidence": 0.95, "n_prompts": 24,
        "together": together,
        "against": {
            "named": [5], "level": "causal", "set_passed": True, "together": against,
            "latents": [{"latent": 5, "evidence": "associated", "association_p": 0.001, **against}],
        },
        "stability": {
            "made": True, "why_not": None, "unit": "nats", "trainings": 3, "causal": 3, "draws": 99, "cosine": 0.9, "each": [],
        },
        "latents": [
            {
                "latent": latent, "evidence": level, "association_p": 0.001,
                **{kind: check | {"at_norm": 0.34375} for kind, check in together.items()},
            }
            for latent, level in ((3, "causal"), (4, "observed"))
        ],
        "curve": [{"n": n} | {kind: estimate(n / 100) for kind in kinds} for n in (1, 55)],
        "remainder": {},
        "rebuilding": {"reference": estimate(0.011), "intervened": estimate(0.012)},
        "answers": {"unit": "share of answers", "n_prompts": 24, "together": together, "curve": [{"n": 55} | {kind: estimate(0.91) for kind in kinds}]},
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
    discovered(folder)
    folder.survey.write_text(json.dumps(survey()), encoding="utf-8")
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    summary["plain_difference"] = plain_difference()
    summary["change"] = change()
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
    against = causal["against"]
    for entry in (
        causal["together"],
        *causal["latents"],
        *causal["curve"],
        against["together"],
        *against["latents"],
    ):
        entry["sufficiency"] = None
    place.attribution.write_text(json.dumps(attribution))
    place.causal.write_text(json.dumps(causal))
