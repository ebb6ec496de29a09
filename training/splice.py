"""Splicing: how much of each model's next-token prediction survives when its activations are replaced by reconstructions.

    recovered = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)

CE_ablated is the cross-entropy with the model's mean activation at every token: a stricter baseline than zeros, which break a
model so badly that any reconstruction looks good. Masked tokens, which are never trained on, always keep their activations.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.activations.batch import join_models, split_models
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import View, view_rows
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from .extraction import ModelInputs, model_inputs, read_activations
from .latent_division import reconstruct

DOCUMENTS = 64
"""Maximum number of held-out documents on which cross-entropy is measured."""

BATCH = 8
"""Documents that are measured together."""


@dataclass
class _Sums:
    clean: float = 0.0
    spliced: float = 0.0
    ablated: float = 0.0
    count: int = 0

    def result(self) -> dict[str, float | None]:
        clean, spliced, ablated = (
            value / max(self.count, 1) for value in (self.clean, self.spliced, self.ablated)
        )
        # If ablation does no harm, there is nothing to recover and the ratio is meaningless.
        recovered = (ablated - spliced) / (ablated - clean) if ablated - clean > 1e-3 else None
        return {"clean": clean, "spliced": spliced, "ablated": ablated, "recovered": recovered}


@torch.no_grad()
def cross_entropy(
    pair: ModelPair,
    crosscoder: Crosscoder,
    documents: Documents,
    reads: View,
    mean: Float[Tensor, " width"],
    n_documents: int = DOCUMENTS,
) -> dict[str, dict[str, float | None]]:
    """Cross-entropy in nats per token for each model: clean, spliced, ablated, and the share recovered.

    `mean` is the mean activation of all models, concatenated. A diff-SAE reconstructs the difference alone, so only the intervened
    model is spliced, with the reference's activations plus the reconstructed difference.
    """
    held_out = documents.split(held_out=True)
    chosen = held_out[:: max(1, -(-len(held_out) // n_documents))]
    sums = {name: _Sums() for name in (MODEL_NAMES[1:] if reads == "difference" else MODEL_NAMES)}
    means = split_models(mean[None], pair.d_models)
    for start in tqdm(range(0, len(chosen), BATCH), desc="splice", unit="batch"):
        batch = chosen[start : start + BATCH]
        inputs = model_inputs(pair, documents, batch)
        reconstructed = _reconstruct(pair, crosscoder, inputs, reads)
        for name, sum_ in sums.items():
            index = MODEL_NAMES.index(name)
            token_ids, attention, kept = inputs[index]
            replacements = {
                "clean": None,
                "spliced": reconstructed[index],
                "ablated": means[index].expand(int(kept.sum()), -1),
            }
            for kind, replacement in replacements.items():
                splice = None if replacement is None else _replace(kept, replacement)
                logits = pair.logits(token_ids, attention, splice, index)
                setattr(sum_, kind, getattr(sum_, kind) + _summed_loss(logits, token_ids, attention))
            sum_.count += int(attention[:, 1:].sum())
    return {name: sum_.result() for name, sum_ in sums.items()}


def _reconstruct(
    pair: ModelPair,
    crosscoder: Crosscoder,
    inputs: tuple[ModelInputs, ...],
    reads: View,
) -> tuple[Float[Tensor, "kept _"], ...]:
    """The dictionary's reconstruction of each model's activations at the kept tokens."""
    device = crosscoder.W_enc.device
    parts = [
        part[one.kept.to(part.device)].float().to(device)
        for part, one in zip(read_activations(pair, inputs), inputs, strict=True)
    ]
    values = join_models(parts)
    rows = view_rows(values, pair.d_models, reads)
    reconstructed = reconstruct(crosscoder, rows)
    if reads == "pooled":
        return reconstructed.split(len(values))
    if reads == "difference":
        return parts[0], parts[0] + reconstructed
    return split_models(reconstructed, pair.d_models)


def _replace(kept: Bool[Tensor, "document token"], replacement: Float[Tensor, "kept d_model"]):
    def splice(
        activations: Float[Tensor, "document token d_model"],
    ) -> Float[Tensor, "document token d_model"]:
        replaced = activations.clone()
        replaced[kept.to(activations.device)] = replacement.to(activations)
        return replaced

    return splice


def _summed_loss(
    logits: Float[Tensor, "document token vocabulary"],
    token_ids: Int[Tensor, "document token"],
    attention: Bool[Tensor, "document token"],
) -> float:
    """Sum of the cross-entropy over all predicted tokens, in nats."""
    predicted = attention[:, 1:].to(logits.device)
    targets = token_ids[:, 1:].to(logits.device)[predicted]
    return float(
        torch.nn.functional.cross_entropy(logits[:, :-1][predicted].float(), targets, reduction="sum")
    )
