"""Training steps of other libraries, at equal size, from the same weights and on the same batches.

SAELens BatchTopK      one SAE on the concatenated activations of all models: a step of SAELens's trainer
SAELens, autocast      the same with its option `autocast`, which runs matrix products in bfloat16
sparsify TopK          EleutherAI's sparse coder on the same rows, with its kernels and float32 Adam (`pip install eai-sparsify`;
                       on a GPU, if it is installed)
plain step, compiled   a straightforward step in torch: dense bfloat16 products, BatchTopK by `topk`, fused Adam, no AuxK,
                       with `torch.compile` (on a GPU)
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder.dictionary.crosscoder import Crosscoder

from ..compiled_step import compiled
from .planted_activations import Batches
from .settings import Shape

# Any learning rate will do: it does not affect timing.
_RATE = 1e-4
_STEPS_WITHOUT_END = 2**60


def rival_steps(
    crosscoder: Crosscoder, dead: Bool[Tensor, " latent"], batches: Batches, shape: Shape, precision: str
) -> dict[str, Callable[[], int]]:
    """The available steps, by name; each makes one update and returns its number of tokens."""
    on_gpu = crosscoder.W_enc.is_cuda
    reduced = precision == "bfloat16"
    steps: dict[str, Callable[[], int]] = {}
    if find_spec("sae_lens") is not None:
        steps["SAELens BatchTopK"] = SAELensStep(crosscoder, dead, batches, shape, autocast=False)
        if reduced:
            steps["SAELens, autocast"] = SAELensStep(crosscoder, dead, batches, shape, autocast=True)
    if on_gpu and reduced:
        steps["plain step, compiled"] = PlainStep(crosscoder, batches, shape, torch.bfloat16)
        if find_spec("sparsify") is not None:
            steps["sparsify TopK"] = SparsifyStep(crosscoder, dead, batches, shape)
    return steps


class SAELensStep:
    """A step of SAELens's trainer."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        dead: Bool[Tensor, " latent"],
        batches: Batches,
        shape: Shape,
        *,
        autocast: bool,
    ) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        device = str(crosscoder.W_enc.device)
        width = crosscoder.config.width
        sae = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(d_in=width, d_sae=shape.n_latents, k=shape.k, device=device)
        )
        folded = crosscoder.fold()
        with torch.no_grad():
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                getattr(sae, name).copy_(getattr(folded, name))
        settings = SAETrainerConfig(
            total_training_samples=_STEPS_WITHOUT_END,
            train_batch_size_samples=shape.batch_tokens,
            lr=_RATE,
            lr_end=_RATE,
            device=device,
            autocast=autocast,
            logger=LoggingConfig(log_to_wandb=False),
        )
        self._trainer = SAETrainer(settings, sae, data_provider=iter(()))
        self._batches, self._dead = batches, dead

    def __call__(self) -> int:
        """Make one update; return its number of tokens."""
        trainer = self._trainer
        trainer.n_forward_passes_since_fired.masked_fill_(self._dead, torch.inf)
        trainer.step(self._batches.current.float())
        return len(self._batches.current)


class SparsifyStep:
    """A step of sparsify's trainer: FVU and AuxK, unit decoder rows, Adam."""

    def __init__(
        self, crosscoder: Crosscoder, dead: Bool[Tensor, " latent"], batches: Batches, shape: Shape
    ) -> None:
        from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

        device, width = crosscoder.W_enc.device, crosscoder.config.width
        settings = SparseCoderConfig(num_latents=shape.n_latents, k=shape.k)
        self._coder: Any = SparseCoder(width, settings, device=device, dtype=torch.float32)
        folded = crosscoder.fold()
        with torch.no_grad():
            self._coder.encoder.weight.copy_(folded.W_enc.T)
            self._coder.encoder.bias.copy_(folded.b_enc)
            self._coder.W_dec.copy_(folded.W_dec)
            self._coder.b_dec.copy_(folded.b_dec)
        self._optimizer = torch.optim.Adam(self._coder.parameters(), lr=_RATE, fused=True)
        self._batches, self._dead = batches, dead

    def __call__(self) -> int:
        """Make one update; return its number of tokens."""
        coder = self._coder
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x=self._batches.current.float(), dead_mask=self._dead)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return len(self._batches.current)


class PlainStep:
    """A compiled dense BatchTopK step in a few lines of torch."""

    def __init__(self, crosscoder: Crosscoder, batches: Batches, shape: Shape, dtype: torch.dtype) -> None:
        """`dtype`: precision of the matrix products."""
        folded = crosscoder.fold()
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self._weights = [getattr(folded, name).detach().clone().requires_grad_() for name in names]
        self._optimizer = torch.optim.Adam(self._weights, lr=_RATE, fused=True)
        self._batches, self._k, self._dtype = batches, shape.k, dtype
        # For its own shapes alone: after a step of another size in the same process, torch would compile it for sizes that vary.
        self._loss = compiled(self._plain_loss, "inductor", None)

    def __call__(self) -> int:
        """Make one update; return its number of tokens."""
        device = self._weights[0].device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
            loss = self._loss(self._batches.current.float(), *self._weights)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        return len(self._batches.current)

    def _plain_loss(
        self,
        values: Float[Tensor, "token width"],
        W_enc: Float[Tensor, "width latent"],
        b_enc: Float[Tensor, " latent"],
        W_dec: Float[Tensor, "latent width"],
        b_dec: Float[Tensor, " width"],
    ) -> Float[Tensor, ""]:
        rectified = (values @ W_enc + b_enc).relu()
        scores = rectified.detach() * W_dec.detach().norm(dim=1)
        threshold = scores.flatten().topk(self._k * len(values), sorted=False).values.min()
        latents = torch.where(scores >= threshold, rectified, 0)
        return (latents @ W_dec + b_dec - values).square().sum(dim=1).mean()
