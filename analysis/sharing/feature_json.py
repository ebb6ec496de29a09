"""One JSON file per latent and model, as circuit-tracer and a local Neuronpedia read them.

FOLDER/MODEL/INDEX.json    transcoder_id, index, examples_quantiles [{quantile_name, examples [{tokens_acts_list, train_token_ind,
                           is_repeated_datapoint, tokens}]}], top_logits, bottom_logits, act_min, act_max, quantile_values, histogram,
                           activation_frequency
"""

import json
from pathlib import Path
from typing import Any

from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import load_results
from .shared_latents import SharedLatent, example_groups, models_of, shared_latents


def write_feature_json(folder: RunFolder, place: Path, with_examples: bool = False) -> None:
    """Write the latents of a run. Without `with_examples`, nothing that quotes its texts is written.

    Raises:
        FormatError: The analysis is missing or damaged.
    """
    results = load_results(folder)
    for model in models_of(results):
        (place / model).mkdir(parents=True, exist_ok=True)
        for latent in shared_latents(results, model, with_examples):
            record = feature_record(latent, f"{folder.path.resolve().name}/{model}")
            # Not atomically, which would wait for the disk once per latent.
            (place / model / f"{latent.index}.json").write_text(
                json.dumps(record, allow_nan=False), encoding="utf-8"
            )


def feature_record(latent: SharedLatent, transcoder_id: str) -> dict[str, Any]:
    """Return the content of the file of a latent."""
    groups = example_groups(latent)
    return {
        "transcoder_id": transcoder_id,
        "index": latent.index,
        "examples_quantiles": [
            {
                "quantile_name": name,
                "examples": [
                    {
                        "tokens_acts_list": row["values"],
                        "train_token_ind": row["position"] - row["start"],
                        "is_repeated_datapoint": False,
                        "tokens": row["tokens"],
                    }
                    for row in rows
                ],
            }
            for name, _, rows in groups
        ],
        "top_logits": latent.top.tokens,
        "bottom_logits": latent.bottom.tokens,
        "act_min": 0.0,
        "act_max": latent.largest,
        "quantile_values": [float(rows[0]["peak"]) for _, quantile, rows in groups if quantile is not None],
        "histogram": [float(count) for count in latent.counts],
        "activation_frequency": latent.density,
        "label": latent.row["label"],
        "description": latent.description,
    }
