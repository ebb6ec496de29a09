"""The passes of the survey, and what becomes of them: survey.json."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from ..extraction import Pass, pack, passes_of
from .layers import compare_layers
from .predictions import Place, PredictionShift

# Padded tokens of one pass: the logits of all of them are there at once, for both models.
_BATCH_TOKENS = 512

# Tokens that layers are compared on: their Gram matrices have a row and a column for each.
_LAYER_TOKENS = 1024

_CONTEXT = 16


class _Batch(NamedTuple):
    documents: Int64[np.ndarray, " document"]
    passes: tuple[Pass, ...]
    """One for each model; kept are the tokens that the token policy leaves in."""

    @property
    def n_kept(self) -> int:
        return int(self.passes[0].kept.sum())


class _Layers:
    """Every few tokens of all states of both models."""

    def __init__(self, n_tokens: int) -> None:
        self._every, self._seen = max(1, -(-n_tokens // _LAYER_TOKENS)), 0
        self._states: list[list[list[Tensor]]] = [[], []]

    def choose(self, n_kept: int) -> Int64[Tensor, " chosen"]:
        """Which of the next tokens are kept."""
        chosen = torch.arange((-self._seen) % self._every, n_kept, self._every)
        self._seen += n_kept
        return chosen

    def add(self, model: int, states: list[Tensor]) -> None:
        """The chosen tokens of all states of one model."""
        self._states[model].append(states)

    def result(self, pair: ModelPair) -> list[dict[str, Any]]:
        """Both models compared, layer by layer, with the hookpoint marked."""
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
    """Predictions and layers of both models on held-out documents spread over all of them, at most `n_documents`.

    Predictions are left out where the tokenizers differ: distributions over other tokens have no divergence. Layers are left out
    for models that do not report their hidden states, and where both sides are the same model nothing needs to be left out:
    every difference is zero.
    """
    chosen = _spread(documents.side(held_out=True), n_documents)
    shift = PredictionShift(_vocabulary_size(pair)) if documents.alignment is None else None
    layers = _Layers(int(documents.unmasked[chosen].sum()))
    with_layers = True
    for batch in _batches(pair, documents, chosen):
        rows = layers.choose(batch.n_kept)
        logits: list[Tensor] = []
        for model in range(2):
            own = batch.passes[model]
            passed = pair.full_pass(own.token_ids, own.attention, model)
            kept = own.kept.to(pair.device)
            logits.append(passed.logits[kept])
            with_layers = with_layers and passed.hidden_states is not None
            if with_layers:
                states = passed.hidden_states or ()
                layers.add(model, [state[kept][rows.to(pair.device)].float().cpu() for state in states])
        if shift is not None:
            places, template = _places(documents, batch)
            shift.update(logits[0], logits[1], places, template)
    return {
        "n_documents": len(chosen),
        "n_tokens": int(documents.unmasked[chosen].sum()),
        "predictions": None if shift is None else _predictions(shift, pair, documents),
        "layers": layers.result(pair) if with_layers else None,
    }


def _predictions(shift: PredictionShift, pair: ModelPair, documents: Documents) -> dict[str, Any]:
    """What the models predict, with the text before the largest differences."""
    decode = pair.tokenizer.decode
    predictions = shift.result(decode)
    for entry in predictions["largest"]:
        ids = documents.tokens_of(entry["document"])[: entry["position"] + 1]
        entry["context"] = decode(ids[-_CONTEXT:].tolist())
    return predictions


@torch.no_grad()
def survey_layers(pair: ModelPair, documents: Documents, n_documents: int) -> list[dict[str, Any]] | None:
    """The layers alone, on training documents: what `doctor` shows before a hookpoint is chosen."""
    chosen = _spread(documents.side(held_out=False), n_documents)
    layers = _Layers(int(documents.unmasked[chosen].sum()))
    for batch in _batches(pair, documents, chosen):
        rows = layers.choose(batch.n_kept).to(pair.device)
        for model in range(2):
            own = batch.passes[model]
            states = pair.full_pass(own.token_ids, own.attention, model).hidden_states
            if states is None:
                return None
            kept = own.kept.to(pair.device)
            layers.add(model, [state[kept][rows].float().cpu() for state in states])
    return layers.result(pair)


def layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """The comparison of layers as lines of a table."""
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


def _spread(documents: Int64[np.ndarray, " document"], n: int) -> Int64[np.ndarray, " chosen"]:
    """At most n of them, evenly spread."""
    return documents[:: max(1, -(-len(documents) // n))]


def _batches(
    pair: ModelPair, documents: Documents, chosen: Int64[np.ndarray, " document"]
) -> Iterator[_Batch]:
    for batch in tqdm(pack(chosen, documents.read_lengths, _BATCH_TOKENS), desc="survey", unit="batch"):
        passes = passes_of(pair, documents, batch)
        if passes[0].kept.any():
            yield _Batch(batch, passes)


def _places(documents: Documents, batch: _Batch) -> tuple[list[Place], Bool[Tensor, " token"]]:
    """Where the kept tokens of a batch stand, and which belong to the chat template."""
    row, position = batch.passes[0].kept.nonzero(as_tuple=True)
    places = [
        Place(int(batch.documents[one]), at) for one, at in zip(row.tolist(), position.tolist(), strict=True)
    ]
    masked = _along(documents, documents.masked, batch.documents)
    template = _along(documents, documents.template, batch.documents)
    return places, torch.from_numpy(template[~masked])


def _along(
    documents: Documents, values: Bool[np.ndarray, " token"], chosen: Int64[np.ndarray, " document"]
) -> Bool[np.ndarray, " chosen_token"]:
    """Values of all tokens of some documents, one document after the other."""
    return np.concatenate([values[documents.offsets[i] : documents.offsets[i + 1]] for i in chosen])


def _vocabulary_size(pair: ModelPair) -> int:
    """Tokens that both models can predict and the tokenizer knows; what is beyond pads an unembedding."""
    heads: list[Any] = [model.get_output_embeddings() for model in pair.models]  # pyright: ignore[reportCallIssue]
    return min(len(pair.tokenizer), *(len(head.weight) for head in heads))
