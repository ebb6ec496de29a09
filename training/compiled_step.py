"""The dense path of a training step through `torch.compile`: one region for forward pass, loss and their gradients, one for the update.

What changes from step to step enters as tensors of fixed shape: the number of scores to keep, the learning rate, the penalty, and the indices
of the dead latents, padded to one of a few sizes. So no step is compiled twice, and nothing inside a region is read back. On a GPU each
region is a CUDA graph (`mode="reduce-overhead"`).

One number is read back between two steps: how many latents are dead. It chooses the size, and depends on the state of training alone, so a
resumed run takes the same products.

BatchTopK and TopK keep every score that equals the smallest kept one, where the other paths choose among them.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from crosscoder.config import BatchTopK, TopK, TrainingConfig
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparsity import keep_largest_of_tokens
from crosscoder.errors import ResourceError

from .checkpoints import TrainState
from .forward import DensePass, reconstruction_errors
from .losses import LossTerms, terms_with

# Shares of the latents that the dead ones are padded to. Each is compiled once, where training comes to need it.
_DEAD_SHARES = (1 / 32, 1 / 4, 1)

# Bits of a score that are found at once, from the top of the 31 below the sign: each pass over the scores counts 2^3 - 1 candidates.
_DIGITS = (*((shift, 3) for shift in range(28, 0, -3)), (0, 1))


class Update(NamedTuple):
    """What one update reports."""

    terms: LossTerms
    fired: Bool[Tensor, " latent"]
    l0: Float[Tensor, ""]


@dataclass(frozen=True)
class StaticPass(DensePass):
    """A dense pass of fixed shapes, whose dead latents are padded."""

    n_dead: Int64[Tensor, ""]

    def reconstruct_with(self, latents: Int64[Tensor, " column"], k: int) -> Float[Tensor, "token width"]:
        """Reconstruct each token from its k strongest of the first `n_dead` given latents, without the bias. Differentiable."""
        crosscoder, width = self.crosscoder, len(latents)
        # From gathered weights: the gradient of gathered columns of all pre-latents would be as large as these.
        encoder = crosscoder.W_enc.T.index_select(0, latents)
        pre_latents = self.normalized @ encoder.T + crosscoder.b_enc.index_select(0, latents)
        counted = torch.arange(width, device=latents.device) < self.n_dead
        rectified = torch.where(counted, pre_latents.relu(), 0)
        if k < width:
            rectified = keep_largest_of_tokens(rectified, self.norms.index_select(0, latents), k)
        return (rectified @ crosscoder.W_dec.index_select(0, latents)).to(self.error.dtype)


class CompiledStep:
    """Makes updates of one training state, without those of the counters of dead latents."""

    def __init__(
        self,
        state: TrainState,
        training: TrainingConfig,
        dtype: torch.dtype,
        nested: tuple[int, ...],
        difference_weight: float,
        backend: str = "inductor",
    ) -> None:
        """
        Args:
            dtype: Precision of the matrix products.
            nested: See `forward.dense_forward`.
            backend: That of `torch.compile`.

        Raises:
            ResourceError: No compiler is installed, or torch compiles nothing for this device.
        """
        self._state, self._crosscoder, self._training = state, state.crosscoder, training
        self._device, self._dtype = state.crosscoder.W_enc.device, dtype
        self._nested, self._difference_weight = nested, difference_weight
        if backend == "inductor":
            require_compiler(self._device)
        self._graphs = self._device.type == "cuda" and backend == "inductor"
        mode = "reduce-overhead" if self._graphs else None
        self._loss: Callable[..., Any] = compiled(self._loss_of, backend, mode)
        self._update: Callable[..., Any] = compiled(self._update_of, backend, mode)
        self._optimized: list[list[Tensor]] | None = None
        self._n_updates = 0

    def __call__(
        self,
        normalized: Float[Tensor, "token width"],
        k: float | None,
        dead: Bool[Tensor, " latent"],
        rate: float,
    ) -> Update:
        """Make one update with the given learning rate. `k`: see `forward.dense_forward`."""
        if self._optimized is None:
            self._optimized = self._optimizer_state()
        indices = self._padded(dead)
        counts = self._on_device(torch.tensor([self._kept(k, len(normalized)), int(dead.sum())]))
        self._state.optimizer.zero_grad(set_to_none=True)
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        scalars = self._on_device(self._scalars(rate))
        total, terms, fired, l0 = self._loss(normalized, indices, counts, scalars)
        total.backward()
        self._crosscoder.constrain_gradients()
        parameters, *moments = self._optimized
        gradients = [parameter.grad for parameter in self._crosscoder.parameters()]
        self._update(parameters, gradients, *moments, scalars)
        self._n_updates += 1
        if self._graphs:
            # The next step writes into the same memory.
            terms, l0 = {name: value.clone() for name, value in terms.items()}, l0.clone()
        return Update(LossTerms(terms), fired, l0)

    # --- what is compiled ---------------------------------------------------------------------------------------------

    def _loss_of(
        self,
        normalized: Float[Tensor, "token width"],
        dead: Int64[Tensor, " column"] | None,
        counts: Int64[Tensor, "2"],
        scalars: Float[Tensor, "3"],
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """Return the loss, its terms, which latents fired, and L0."""
        dtype = self._dtype
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            forward = static_forward(self._crosscoder, normalized, counts, self._nested)
            terms = terms_with(forward, dead, self._training.auxiliary, scalars[2], self._difference_weight)
        total = torch.stack(list(terms.values())).sum()
        active = forward.latents.detach() > 0
        reported = {name: value.detach() for name, value in terms.items()}
        return total, reported, active.any(dim=0), active.sum() / len(active)

    def _update_of(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        steps: list[Tensor],
        scalars: Float[Tensor, "3"],
    ) -> None:
        """Clip the gradients by their norm and make a step of Adam, in place; see `clipping.clip_gradients` and torch's Adam."""
        group = self._state.optimizer.param_groups[0]
        (beta, beta_sq), eps = group["betas"], group["eps"]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        factor = (self._training.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        every = zip(parameters, gradients, exp_avgs, exp_avg_sqs, steps, strict=True)
        for parameter, gradient, exp_avg, exp_avg_sq, step in every:
            clipped = gradient * factor
            exp_avg.lerp_(clipped, 1 - beta)
            exp_avg_sq.mul_(beta_sq).addcmul_(clipped, clipped, value=1 - beta_sq)
            parameter.sub_(scalars[0] * exp_avg / (exp_avg_sq.sqrt() / scalars[1] + eps))
            step.add_(1)

    # --- what it is given ---------------------------------------------------------------------------------------------

    def _kept(self, k: float | None, n_tokens: int) -> int:
        """Number of scores to keep: of a batch for BatchTopK, of a token for TopK; 1 for kinds that do not count."""
        sparsity = self._crosscoder.config.sparsity
        if not isinstance(sparsity, BatchTopK | TopK):
            return 1
        k = chosen(sparsity.k, "crosscoder.sparsity.k") if k is None else k
        return max(1, round(k * n_tokens if isinstance(sparsity, BatchTopK) else k))

    def _padded(self, dead: Bool[Tensor, " latent"]) -> Int64[Tensor, " column"] | None:
        """Indices of the dead latents, padded to one of few lengths; None where AuxK has nothing to do."""
        if self._training.auxiliary.coefficient == 0:
            return None
        indices = dead.nonzero().squeeze(1)
        if not len(indices):
            return None
        lengths = (-(-len(dead) * share // 1) for share in _DEAD_SHARES)
        length = next(int(length) for length in lengths if length >= len(indices))
        return torch.nn.functional.pad(indices, (0, length - len(indices)))

    def _scalars(self, rate: float) -> Float[Tensor, "3"]:
        """Adam's step size and the root of its second correction, computed in float64, and the sparsity penalty."""
        beta, beta_sq = self._state.optimizer.param_groups[0]["betas"]
        step = self._n_updates + 1
        size, root = rate / (1 - beta**step), (1 - beta_sq**step) ** 0.5
        return torch.tensor([size, root, self._state.penalty], dtype=torch.float32)

    def _on_device(self, values: Tensor) -> Tensor:
        if self._device.type == "cpu":
            return values
        return values.pin_memory().to(self._device, non_blocking=True)

    def _optimizer_state(self) -> list[list[Tensor]]:
        """Weights, moments and step counts as the optimizer holds them; without moments, the optimizer is given those of its start."""
        optimizer, parameters = self._state.optimizer, list(self._crosscoder.parameters())
        for parameter in parameters:
            if parameter not in optimizer.state:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                    "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
                }
        held = [optimizer.state[parameter] for parameter in parameters]
        self._n_updates = int(held[0]["step"])
        tensors = [[parameter.detach() for parameter in parameters]]
        tensors += [[moments[name] for moments in held] for name in ("exp_avg", "exp_avg_sq", "step")]
        if self._graphs:
            # A CUDA graph may write into inputs only where their memory stays.
            for tensor in (tensor for group in tensors for tensor in group):
                torch._dynamo.mark_static_address(tensor)
        return tensors


def static_forward(
    crosscoder: Crosscoder,
    normalized: Float[Tensor, "token width"],
    counts: Int64[Tensor, "2"],
    nested: tuple[int, ...],
) -> StaticPass:
    """Compute what `forward.dense_forward` does. `counts`: how many scores to keep, and how many latents are dead."""
    norms, sparsity = crosscoder.score_norms(), crosscoder.config.sparsity
    pre_latents = crosscoder.pre_latents(normalized)
    if isinstance(sparsity, BatchTopK | TopK):
        rectified = pre_latents.relu()
        scores = (rectified * norms).detach()
        smallest = kth_largest(scores, counts[0], of_each_token=isinstance(sparsity, TopK))
        latents = torch.where(scores >= smallest, rectified, 0)
    else:
        latents = crosscoder.sparsity(pre_latents, norms)
    error, nested_errors = reconstruction_errors(crosscoder, normalized, latents, nested)
    return StaticPass(crosscoder, normalized, error, norms, nested_errors, pre_latents, latents, counts[1])


def kth_largest(
    scores: Float[Tensor, "token latent"], k: Int64[Tensor, ""], *, of_each_token: bool
) -> Float[Tensor, "row one"]:
    """Return the k-th largest of nonnegative float32 scores, of the batch or of each token; 0 if there are fewer.

    Nonnegative floats order like their bits, which are found from the top: a digit is the number of its values for which at least k scores
    are as large. Unlike a sort, it has the same shapes for every k.
    """
    assert scores.dtype == torch.float32
    bits = scores.view(torch.int32)
    axes = (1,) if of_each_token else (0, 1)
    counter = torch.int32 if scores.numel() < 2**31 else torch.int64
    found: Int32[Tensor, "row one"] = bits.new_zeros((len(scores) if of_each_token else 1, 1))
    for shift, width in _DIGITS:
        digit = torch.zeros_like(found)
        for value in range(1, 2**width):
            as_large = (bits >= found + (value << shift)).sum(dim=axes, keepdim=True, dtype=counter)
            digit = digit + (as_large >= k).to(torch.int32)
        found = found + digit * (1 << shift)
    return found.view(torch.float32)


def compiled(method: Callable[..., Any], backend: str, mode: str | None) -> Callable[..., Any]:
    """Compile a bound method for static shapes and without breaks, counting its compilations apart from those of other objects.

    torch keeps what it compiled, and a limit of it, with the code of a function. With a copy of the code of its own, the dictionaries of a
    run do not use up the limit of each other.
    """
    assert isinstance(method, MethodType)
    function = method.__func__
    assert isinstance(function, FunctionType)
    own = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
    )
    return torch.compile(
        MethodType(own, method.__self__), fullgraph=True, dynamic=False, backend=backend, mode=mode
    )


def require_compiler(device: torch.device) -> None:
    """Check that what `torch.compile` needs for the device is there.

    Raises:
        ResourceError: It is not.
    """
    if device.type not in ("cpu", "cuda"):
        raise ResourceError(
            f"training.step: 'compiled' is for a CPU or a CUDA GPU, found {device.type!r}; use 'auto' or 'dense'"
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise ResourceError(
            "training.step: 'compiled' needs Triton on a GPU, which is not installed; pip install triton, or use 'auto' or 'dense'"
        )
    default = "clang++" if sys.platform == "darwin" else "g++"
    names = [os.environ["CXX"]] if "CXX" in os.environ else [default]
    if device.type == "cuda":
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
    if not any(shutil.which(name) for name in names):
        raise ResourceError(
            f"training.step: 'compiled' needs a compiler, and {' or '.join(names)} was not found; install one, name it in CXX (on a GPU CC), or "
            "use 'auto' or 'dense'"
        )
