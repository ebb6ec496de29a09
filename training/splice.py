"""How much of each model's next-token prediction survives when its activations are replaced by their reconstruction.

    recovered = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)

CE_ablated puts the model's mean activation in place of every token's: a harder floor than zeros, which break a model so
badly that any reconstruction looks good. Masked tokens keep their own activations throughout; they were never trained on.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.activations.batch import join_models, split_models
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.inputs import Reads, present
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from .extraction import Pass, activations_of_passes, passes_of

DOCUMENTS = 64
"""Held-out documents that cross-entropy is measured on, at most."""

_BATCH = 8


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
        # Where ablation does no harm there is nothing to recover, and the ratio says nothing.
        recovered = (ablated - spliced) / (ablated - clean) if ablated - clean > 1e-3 else None
        return {"clean": clean, "spliced": spliced, "ablated": ablated, "recovered": recovered}


@torch.no_grad()
def cross_entropy(
    pair: ModelPair, crosscoder: Crosscoder, documents: Documents, reads: Reads, mean: Float[Tensor, " width"]
) -> dict[str, dict[str, float | None]]:
    """Cross-entropy in nats a token for each model: clean, spliced, ablated, and the share recovered.

    `mean` is the mean activation of all models side by side. A diff-SAE rebuilds the difference alone, so with it only
    the intervened model is spliced, as reference activations plus the rebuilt difference.
    """
    held_out = documents.side(held_out=True)
    chosen = held_out[:: max(1, -(-len(held_out) // DOCUMENTS))]
    sums = {name: _Sums() for name in (MODEL_NAMES[1:] if reads == "difference" else MODEL_NAMES)}
    means = split_models(mean[None], pair.d_models)
    for start in tqdm(range(0, len(chosen), _BATCH), desc="splice", unit="batch"):
        batch = chosen[start : start + _BATCH]
        passes = passes_of(pair, documents, batch)
        rebuilt = _rebuild(pair, crosscoder, passes, reads)
        for name, sum_ in sums.items():
            index = MODEL_NAMES.index(name)
            token_ids, attention, kept = passes[index]
            replacements = {
                "clean": None,
                "spliced": rebuilt[index],
                "ablated": means[index].expand(int(kept.sum()), -1),
            }
            for kind, replacement in replacements.items():
                splice = (
                    None
                    if replacement is None
                    else _replace(kept.to(pair.device), replacement.to(pair.device))
                )
                logits = pair.logits(token_ids, attention, splice, index)
                setattr(sum_, kind, getattr(sum_, kind) + _summed_loss(logits, token_ids, attention))
            sum_.count += int(attention[:, 1:].sum())
    return {name: sum_.result() for name, sum_ in sums.items()}


def _rebuild(
    pair: ModelPair,
    crosscoder: Crosscoder,
    passes: tuple[Pass, ...],
    reads: Reads,
) -> tuple[Float[Tensor, "kept _"], ...]:
    """Each model's activations at the kept tokens, as the dictionary rebuilds them."""
    device = crosscoder.W_enc.device
    parts = [
        part[own.kept.to(part.device)].float().to(device)
        for part, own in zip(activations_of_passes(pair, passes), passes, strict=True)
    ]
    values = join_models(parts)
    rows = present(values, pair.d_models, reads)
    rebuilt = crosscoder.denormalize(crosscoder.rebuild(crosscoder.encode_sparse(rows)))
    if reads == "pooled":
        return rebuilt.split(len(values))
    if reads == "difference":
        return parts[0], parts[0] + rebuilt
    return split_models(rebuilt, pair.d_models)


def _replace(kept: Bool[Tensor, "document token"], replacement: Float[Tensor, "kept d_model"]):
    def splice(
        activations: Float[Tensor, "document token d_model"],
    ) -> Float[Tensor, "document token d_model"]:
        replaced = activations.clone()
        replaced[kept] = replacement.to(activations.dtype)
        return replaced

    return splice


def _summed_loss(
    logits: Float[Tensor, "document token vocabulary"],
    token_ids: Int[Tensor, "document token"],
    attention: Bool[Tensor, "document token"],
) -> float:
    """Sum over all predicted tokens of the cross-entropy in nats."""
    predicted = attention[:, 1:].to(logits.device)
    targets = token_ids[:, 1:].to(logits.device)[predicted]
    return float(
        torch.nn.functional.cross_entropy(logits[:, :-1][predicted].float(), targets, reduction="sum")
    )
