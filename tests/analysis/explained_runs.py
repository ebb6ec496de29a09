"""Runs with behaviors and snapshots for the tests of the page: the files that attribute and analyze write, optionally with hostile text."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.explanations.explanation_files import ExplanationFolder
from analysis.tables.columns import WRITTEN
from crosscoder.run.folder import RunFolder

from .page_views import read_table
from .report_runs import shifted
from .run_folder import HOSTILE

NAMED = (3, 4)
N_PROMPTS = 9
CHECKPOINTS = ("reference", "step_10", HOSTILE[1], "intervened")


def explained(folder: RunFolder, name: str = "refusal", *, hostile: bool = False) -> BehaviorFolder:
    """Write a behavior with every file: latent 3 is causal, latent 4 is only observed and passes one of its two checks."""
    shifted(folder, name)
    files = BehaviorFolder(folder.behaviors / name)
    n_latents = len(read_table(folder.features))
    random = np.random.default_rng(7)
    held_out = random.normal(0, 0.01, n_latents)
    held_out[list(NAMED)] = 0.21875, 0.0781
    rank = np.full(n_latents, np.nan)
    rank[[3, 4, 6]] = 0, 1, 2
    table = pd.DataFrame(
        {
            "latent": np.arange(n_latents), "rank": rank, "share_find": held_out * 1.25, "share_held_out": held_out,
            "share_held_out_low": held_out - 0.0123, "share_held_out_high": held_out + 0.0234, "evidence": "observed",
        }
    )  # fmt: skip
    table.loc[3, "evidence"] = "causal"
    table.to_parquet(files.latents)
    causal = json.loads(files.causal.read_text())
    causal["latents"][1]["necessity"] |= {"passed": False, "value": 0.0052, "low": -0.01, "high": 0.02}
    files.causal.write_text(json.dumps(causal))
    _prompts(random, hostile).to_parquet(files.prompts)
    _tokens(random, hostile).to_parquet(files.tokens)
    features = read_table(folder.features)
    features.loc[3, "evidence"] = "causal"
    features.to_parquet(folder.features)
    if hostile:
        shift = json.loads(files.shift.read_text())
        shift |= {"name": HOSTILE[0], "description": f"{HOSTILE[1]} {HOSTILE[3]}"}
        files.shift.write_text(json.dumps(shift))
    return files


def _prompts(random: np.random.Generator, hostile: bool) -> Any:
    texts = [HOSTILE[index % len(HOSTILE)] if hostile else f"Prompt {index}?" for index in range(N_PROMPTS)]
    return pd.DataFrame(
        {
            "prompt": texts,
            "reference": random.uniform(0, 0.3, N_PROMPTS),
            "intervened": random.uniform(0.6, 1, N_PROMPTS),
            "reference_answer": texts[::-1],
            "intervened_answer": texts,
        }
    )


def _tokens(random: np.random.Generator, hostile: bool) -> Any:
    """Firings of the named latents in two rows per prompt, at positions with gaps; latent 3 has its largest value on prompt 6."""
    rows = []
    for prompt in range(N_PROMPTS):
        for row in (0, 1):
            for position in range(2, 30, 3):
                token = HOSTILE[position % len(HOSTILE)] if hostile else f" t{position}"
                for latent in NAMED:
                    planted = (prompt, position, latent) == (6, 8, 3)
                    if planted or random.uniform() < 0.6:
                        value = random.normal(0.2, 0.3) + 9 * planted
                        rows.append((prompt, row, position, position + 100, latent, 1.5, value, token))
    names = ["prompt", "row", "position", "token_id", "latent", "weight", "value", "token"]
    table = pd.DataFrame(rows, columns=pd.Index(names))
    return table.astype({"value": np.float32, "weight": np.float32})


def written(folder: RunFolder, *, hostile: bool = False) -> None:
    """Write explanations of three latents: one with scores, one with unreadable replies, and one without an explanation."""
    text = HOSTILE[0] if hostile else "Fires on food words."
    row = {
        "latent": 3, "text": text, "author": f"models/{HOSTILE[1] if hostile else 'small-chat'}", "judge": "models/small-chat",
        "method": "excerpts", "prompt_digest": "ab12", "n_shown": 10, "n_shown_silent": 5, "control_latent": 4,
        "detection": 0.875, "detection_low": 0.6875, "detection_high": 0.953125, "detection_n": 20, "detection_unparsed": 0,
        "detection_control": 0.53125, "detection_control_low": 0.375, "detection_control_high": 0.71875, "detection_control_n": 20,
        "detection_control_unparsed": 0, "fuzzing": None, "fuzzing_n": 6, "fuzzing_unparsed": 0, "fuzzing_control_n": 6,
        "fuzzing_control_unparsed": 0, "detection_rule": 0.90625, "prompt_tokens": 12_000, "reply_tokens": 345,
    }  # fmt: skip
    unread = {
        **row,
        "latent": 4,
        "detection": None,
        "detection_n": 0,
        "detection_unparsed": 20,
        "control_latent": 3,
    }
    counts = {name: 0 for name in row if name.endswith(("_n", "_unparsed"))}
    none = {
        "latent": 6, "reason": "fires in no document of the find set", "prompt_tokens": 0, "reply_tokens": 0,
        **{name: row[name] for name in ("author", "judge", "method")}, **counts,
    }  # fmt: skip
    files = ExplanationFolder(folder.explanations)
    files.path.mkdir()
    pq.write_table(pa.Table.from_pylist([row, unread, none], schema=WRITTEN.schema()), files.table)


def followed(folder: RunFolder) -> None:
    """Write a run over snapshots: latents change over four checkpoints, the alarm is raised at the second, and the third is not compared."""
    features = read_table(folder.features)
    n_latents, random = len(features), np.random.default_rng(3)
    rows = []
    for latent in range(n_latents):
        for time, name in enumerate(CHECKPOINTS):
            share = random.uniform(0, 0.1) if time else np.nan
            ends = {"shift_share_low": share - 0.01, "shift_share_high": share + 0.02, "shift": share * time}
            row = {"latent": latent, "checkpoint": time, "name": name, "norm": random.uniform(0.5, 1.5)}
            rows.append({**row, "relative_norm": 0.5, "cosine": 1.0, "shift_share": share, **ends})
    # Shuffled, because the page must sort by latent and checkpoint.
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(folder.analysis / "trajectories.parquet")
    features["onset"] = np.where(features["latent"] % 2 == 0, 2.0, np.nan)
    features.to_parquet(folder.features)
    summary = json.loads(folder.summary.read_text())
    summary["monitoring"] = {
        "checkpoints": [
            {
                "checkpoint": time, "name": name, "model": f"runs/x/{name}", "fve": 0.9,
                "relative_change": time * 0.0123 if time else None, "relative_step": 0.0456 if time else None,
                "fve_difference": 0.75 if time else None, "unexplained": 0.2517 if time else None,
                "shift": {"latents": 0.5, "bias": 0.1, "error": 0.4},
            }
            for time, name in enumerate(CHECKPOINTS)
        ],
        "onset": {"rule": "half of it", "changed": 11, "named": 9, "by_checkpoint": [0, 4, 3, 2], "by_label": {}},
        "alarm": {
            "rate": 0.05,
            "checkpoints": [
                _alarm(1, rings=True, latents=[{"latent": 7, "share": 0.0345}]), _alarm(3, rings=False, latents=[]),
            ],
        },
    }  # fmt: skip
    folder.summary.write_text(json.dumps(summary))


def _alarm(time: int, *, rings: bool, latents: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "checkpoint": time, "name": CHECKPOINTS[time], "statistic": 5.85, "threshold": 2.93, "p_value": 0.0123, "rings": rings,
        "n_latents": len(latents), "latents": latents, "offset": rings,
    }  # fmt: skip
