"""A bulk folder for Neuronpedia: one source per model, with the same index for the same latent.

    FOLDER/MODEL/SOURCE/    release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl,
                            features/batch-N.jsonl.gz, activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz

Neuronpedia has no field for which of two models a latent is shown in. Each model has a source of its own, and the label of the latent
is its explanation in both. The rows have the columns that the tables of its database require; without a value of our own, they have the one that
its own converter writes. Without `with_examples`, nothing that quotes the texts of the run is written: no activations, and the label with
its reason in place of the explanation.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..tables.analysis_files import AnalysisResults, load_results
from .shared_latents import SharedLatent, models_of, shared_latents

BATCH = 1024
"""Latents in a file."""
LOGITS = 20
"""Largest number of tokens in a logit table."""
TOKENS = 1024
"""Largest number of tokens of an example."""
DESCRIPTION = 512
"""Largest number of characters of an explanation."""
NAME = "crosscoder"
"""Who made a release, as people read it."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user whom a new database of Neuronpedia has, as the creator of what is imported; every row has to name one."""
_OURS = {"creatorId": CREATOR, "visibility": "PUBLIC"}


def write_neuronpedia(folder: RunFolder, place: Path, with_examples: bool = False) -> None:
    """Write the latents of a run.

    Raises:
        FormatError: The analysis is missing or damaged.
    """
    results = load_results(folder)
    release = _name(folder.path.resolve().name)
    for model in models_of(results):
        model_id, hookpoint = _side(results, model)
        # Names of sources are LAYER-SET; a layer is a number.
        layer = next(iter(re.findall(r"\d+", hookpoint)), "0")
        source_set = f"{release}-{model}"
        source = f"{layer}-{source_set}"
        inside = place / model_id / source
        named = {"description": f"latents of the crosscoder run {release}", "creatorName": NAME, **_OURS}
        _write_lines(inside / "release.jsonl", [{"name": release, **named}])
        _write_lines(inside / "model.jsonl", [_model(model_id)])
        _write_lines(
            inside / "sourceset.jsonl",
            [{"modelId": model_id, "name": source_set, "releaseName": release, **named}],
        )
        _write_lines(inside / "source.jsonl", [_source(results, model_id, source, source_set)])
        shared = {"hookName": hookpoint or None, "sourceSetName": source_set, "creatorId": CREATOR}
        latents = shared_latents(results, model, with_examples)
        for number, batch in enumerate(_batches(latents)):
            name = f"batch-{number}.jsonl.gz"
            features = (_feature(one, model_id, source) | shared for one in batch)
            _write_lines(inside / "features" / name, features)
            _write_lines(
                inside / "explanations" / name, (_explanation(one, model_id, source) for one in batch)
            )
            if with_examples:
                rows = (row for one in batch for row in _activations(one, model_id, source))
                _write_lines(inside / "activations" / name, rows)


def _side(results: AnalysisResults, model: str) -> tuple[str, str]:
    """Return the name and the hookpoint of a model; names are in lower case there."""
    pair = results.manifest.get("pair") or {}
    side = pair.get(model) or {}
    name = str(side.get("model") or model).rstrip("/").rsplit("/", 1)[-1]
    return _name(name), str(side.get("hookpoint") or "")


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.") or "run"


def _model(model_id: str) -> dict[str, Any]:
    """Return the row of a model, for a database that does not have it yet. Its sizes are not known here."""
    return {
        "id": model_id,
        "displayName": model_id,
        "displayNameShort": model_id,
        "owner": "",
        "layers": 0,
        "neuronsPerLayer": 0,
        "instruct": model_id.endswith(("-it", "-instruct", "-chat")),
        **_OURS,
    }


def _source(results: AnalysisResults, model_id: str, source: str, source_set: str) -> dict[str, Any]:
    summary = results.summary
    return {
        "id": source,
        "modelId": model_id,
        "setName": source_set,
        "num_prompts": summary.get("n_documents"),
        "dataset": ", ".join(summary.get("sources") or {}),
        "notes": "latents of a crosscoder on two models; the same index is the same latent in the other model's source",
        **_OURS,
    }


def _feature(latent: SharedLatent, model_id: str, source: str) -> dict[str, Any]:
    centers = ((np.asarray(latent.edges[1:]) + np.asarray(latent.edges[:-1])) / 2).tolist()
    return {
        "modelId": model_id,
        "layer": source,
        "index": str(latent.index),
        "maxActApprox": latent.largest,
        "frac_nonzero": latent.density,
        "pos_str": latent.top.tokens[:LOGITS],
        "pos_values": latent.top.values[:LOGITS],
        "neg_str": latent.bottom.tokens[:LOGITS],
        "neg_values": latent.bottom.values[:LOGITS],
        # As many values as heights: the middle of each bin.
        "freq_hist_data_bar_values": centers,
        "freq_hist_data_bar_heights": latent.counts,
    }


def _explanation(latent: SharedLatent, model_id: str, source: str) -> dict[str, Any]:
    return {
        "id": f"{model_id}-{source}-{latent.index}",
        "modelId": model_id,
        "layer": source,
        "index": str(latent.index),
        "description": shorten(latent.description, DESCRIPTION, placeholder=" …"),
        "authorId": CREATOR,
    }


def _activations(latent: SharedLatent, model_id: str, source: str) -> Iterable[dict[str, Any]]:
    for number, row in enumerate(latent.examples):
        peak = min(row["position"] - row["start"], TOKENS - 1)
        values = row["values"][:TOKENS]
        yield {
            "id": f"{model_id}-{source}-{latent.index}-{number}",
            "creatorId": CREATOR,
            "modelId": model_id,
            "layer": source,
            "index": str(latent.index),
            "tokens": row["tokens"][:TOKENS],
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": int(np.argmax(values)),
            "minValue": min(values),
            "dataSource": row["source"],
            "dataIndex": str(row["document"]),
            "qualifyingTokenIndex": peak,
        }


def _batches(latents: Iterator[SharedLatent]) -> Iterator[list[SharedLatent]]:
    while batch := list(islice(latents, BATCH)):
        yield batch


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    # Without a time in it, so that equal content gives equal files.
    write_atomic(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
