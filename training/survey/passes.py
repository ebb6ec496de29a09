"""The survey's forward passes, and the content of survey.json."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.language_models.decoder_layers import vocabulary_size
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from ..extraction import ModelInputs, model_inputs, pack
from .layers import compare_layers
from .predictions import PredictionShift, TokenPosition

# Padded tokens per batch: memory holds the logits of all of them for both models.
_BATCH_TOKENS = 512

# Tokens on which layers are compared: each adds a row and a column to the Gram matrices.
_LAYER_TOKENS = 1024

# Tokens shown before each of the largest differences.
_CONTEXT = 16


class _Batch(NamedTuple):
    documents: Int64[np.ndarray, " document"]
    inputs: tuple[ModelInputs, ...]
    """One for each model."""

    @property
    def n_kept(self) -> int:
        return int(self.inputs[0].kept.sum())


class _Layers:
    """States between the decoder layers of both models, on an evenly spaced subset of the tokens."""

    def __init__(self, n_tokens: int) -> None:
        self._every, self._seen = max(1, -(-n_tokens // _LAYER_TOKENS)), 0
        self._states: list[list[list[Tensor]]] = [[], []]

    def choose(self, n_kept: int) -> Int64[Tensor, " chosen"]:
        """Indices of the tokens to compare among the next `n_kept` unmasked ones."""
        chosen = torch.arange((-self._seen) % self._every, n_kept, self._every)
        self._seen += n_kept
        return chosen

    def add(self, model: int, states: list[Tensor]) -> None:
        """Add all states of one model at the chosen tokens."""
        self._states[model].append(states)

    def result(self, pair: ModelPair) -> list[dict[str, Any]]:
        """Compare both models layer by layer; one row for each state of the reference, with the hookpoint marked."""
        reference, intervened = (
            [torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in self._states
        )
        hook, other = pair.layer(0), pair.layer(1)
        hookpoints = None if hook is None or other is None else (hook + 1, other + 1)
        return [
            {**row, "hookpoint": hook is not None and row["reference"] == hook + 1}
            for row in compare_layers(reference, intervened, hookpoints)
        ]


@torch.no_grad()
def survey(pair: ModelPair, documents: Documents, n_documents: int) -> dict[str, Any]:
    """Compare predictions and layers of both models on at most `n_documents` evenly spaced held-out documents.

    Predictions are omitted if the tokenizers differ: distributions over different vocabularies have no divergence. Layers are
    omitted if a model has no decoder layers. If both are the same model, nothing is omitted and every difference is zero.
    """
    chosen = _evenly_spaced(documents.split(held_out=True), n_documents)
    shift = PredictionShift(_vocabulary_size(pair)) if documents.alignment is None else None
    layers = _Layers(int(documents.unmasked[chosen].sum()))
    with_layers = True
    for batch in _batches(pair, documents, chosen):
        rows = layers.choose(batch.n_kept)
        logits: list[Tensor] = []
        for model in range(2):
            inputs = batch.inputs[model]
            output = pair.full_pass(inputs.token_ids, inputs.attention, model)
            kept = inputs.kept.to(pair.device)
            logits.append(output.logits[kept])
            with_layers = with_layers and output.states is not None
            if with_layers:
                states = output.states or ()
                layers.add(model, [state[kept][rows.to(pair.device)].float().cpu() for state in states])
        if shift is not None:
            positions, template = _positions(documents, batch)
            shift.update(logits[0], logits[1], positions, template)
    return {
        "n_documents": len(chosen),
        "n_tokens": int(documents.unmasked[chosen].sum()),
        "predictions": None if shift is None else _predictions(shift, pair, documents),
        "layers": layers.result(pair) if with_layers else None,
    }


def _predictions(shift: PredictionShift, pair: ModelPair, documents: Documents) -> dict[str, Any]:
    """The comparison of predictions, with the text before each of the largest differences."""
    decode = pair.tokenizer.decode
    predictions = shift.result(decode)
    for entry in predictions["largest"]:
        ids = documents.tokens_of(entry["document"])[: entry["position"] + 1]
        entry["context"] = decode(ids[-_CONTEXT:].tolist())
    return predictions


@torch.no_grad()
def survey_layers(pair: ModelPair, documents: Documents, n_documents: int) -> list[dict[str, Any]] | None:
    """Compare layers alone, on training documents, for `doctor`; None if a model has no decoder layers."""
    chosen = _evenly_spaced(documents.split(held_out=False), n_documents)
    layers = _Layers(int(documents.unmasked[chosen].sum()))
    for batch in _batches(pair, documents, chosen):
        rows = layers.choose(batch.n_kept).to(pair.device)
        for model in range(2):
            inputs = batch.inputs[model]
            states = pair.full_pass(inputs.token_ids, inputs.attention, model).states
            if states is None:
                return None
            kept = inputs.kept.to(pair.device)
            layers.add(model, [state[kept][rows].float().cpu() for state in states])
    return layers.result(pair)


def layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """Format the comparison of layers as lines of a table."""
    lines = ["state         CKA      change"]
    for row in layers:
        other = "" if row["reference"] == row["intervened"] else f" / {_state(row['intervened'])}"
        cka = "–" if row["cka"] is None else f"{row['cka']:.4f}"
        change = "–" if row["change"] is None else f"{row['change']:.2%}"
        mark = "  <- hookpoint" if row["hookpoint"] else ""
        lines.append(f"{_state(row['reference']) + other:<13} {cka:<8} {change}{mark}")
    return lines


def _state(index: int) -> str:
    return f"layer {index - 1}" if index else "embeddings"


def _evenly_spaced(documents: Int64[np.ndarray, " document"], n: int) -> Int64[np.ndarray, " chosen"]:
    """At most n documents, evenly spaced."""
    return documents[:: max(1, -(-len(documents) // n))]


def _batches(
    pair: ModelPair, documents: Documents, chosen: Int64[np.ndarray, " document"]
) -> Iterator[_Batch]:
    for batch in tqdm(pack(chosen, documents.read_lengths, _BATCH_TOKENS), desc="survey", unit="batch"):
        inputs = model_inputs(pair, documents, batch)
        if inputs[0].kept.any():
            yield _Batch(batch, inputs)


def _positions(documents: Documents, batch: _Batch) -> tuple[list[TokenPosition], Bool[Tensor, " token"]]:
    """Document and position of the unmasked tokens of a batch, and which of them belong to the chat template."""
    row, position = batch.inputs[0].kept.nonzero(as_tuple=True)
    positions = [
        TokenPosition(int(batch.documents[one]), at)
        for one, at in zip(row.tolist(), position.tolist(), strict=True)
    ]
    masked = _concatenate(documents, documents.masked, batch.documents)
    template = _concatenate(documents, documents.template, batch.documents)
    return positions, torch.from_numpy(template[~masked])


def _concatenate(
    documents: Documents, values: Bool[np.ndarray, " token"], chosen: Int64[np.ndarray, " document"]
) -> Bool[np.ndarray, " chosen_token"]:
    """Values of all tokens of the chosen documents, concatenated."""
    return np.concatenate([values[documents.offsets[i] : documents.offsets[i + 1]] for i in chosen])


def _vocabulary_size(pair: ModelPair) -> int:
    """Size of the vocabulary that both models and the tokenizer share; further rows of an unembedding are padding."""
    return min(len(pair.tokenizer), *map(vocabulary_size, pair.models))
