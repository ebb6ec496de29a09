"""Time of each stage of a sparse training step."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.runtime.timing import BenchmarkTable

from .. import losses
from ..forward import Forward
from .settings import BenchConfig
from .step import EncoderProduct, Precision, warmed_up_step

STEP, PRODUCT, REST = "step", "encoder product alone", "everything else"

# Functions that each form a stage: owner, attribute, and name of the stage.
_FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (Crosscoder, "normalize", "normalize"),
    (Crosscoder, "score_norms", "decoder norms"),
    (Forward, "_select", "encode and select"),
    (SparseLatents, "weighted_sum", "weighted sum"),
    (SparseLatents, "products", "products"),
    (losses, "squared_error", "loss"),
    (losses, "auxiliary_error", "AuxK"),
    (torch.nn.utils, "clip_grad_norm_", "clip"),
)

# Events that torch names: nodes of the autograd graph, and the optimizer.
_NODES = {
    "_WeightedSum": "decode",
    "_Products": "encode and select",
    "_WeightedSumBackward": "gradient of decoder",
    "_ProductsBackward": "gradient of encoder",
    "Optimizer.step#Adam.step": "optimizer",
}
_ANY_NODE = "autograd::engine::evaluate_function: "

# A function that several stages call counts for its caller.
_INSIDE = {
    ("decode", "weighted sum"): "decode",
    ("gradient of decoder", "products"): "gradient of codes",
    ("gradient of decoder", "weighted sum"): "gradient of decoder",
    ("gradient of encoder", "weighted sum"): "gradient of encoder",
    ("AuxK", "loss"): "AuxK",
}


def profile_step(config: BenchConfig, precision: Precision, device: torch.device) -> BenchmarkTable:
    """Profile the stages of a sparse step with torch's profiler, averaged over the configured number of steps."""
    with warmed_up_step(config, config.shape, precision, device) as (step, batches):
        product = EncoderProduct(step.trainer.state.crosscoder, batches, step.trainer.forward.dtype)
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        # On a GPU, autograd runs the backward pass in another thread, where its events would not be attributed to the step.
        one_thread = torch.autograd.set_multithreading_enabled(False)
        with one_thread, _recorded(), profile(activities=activities, acc_events=True) as profiler:
            for _ in range(config.repeats):
                batches.advance()
                product.prepare()
                with record_function(PRODUCT):
                    product()
                with record_function(STEP):
                    step()
    seconds = stage_seconds(list(profiler.events() or ()), config.repeats, on_device=device.type == "cuda")
    reference = seconds.pop(PRODUCT)
    total = sum(seconds.values())
    shares = sorted(seconds.items(), key=lambda entry: -entry[1])
    rows = [
        (stage, f"{spent * 1e3:.4g}", f"{spent / total:.1%}", f"{spent / reference:.2f}")
        for stage, spent in shares
    ]
    rows.append(("the step", f"{total * 1e3:.4g}", "100.0%", f"{total / reference:.2f}"))
    rows.append((PRODUCT, f"{reference * 1e3:.4g}", f"{reference / total:.1%}", "1.00"))
    return BenchmarkTable(
        f"Profile of the sparse step: {config.shape}, {precision}",
        ("stage", "ms", "share", "× encoder product"),
        tuple(rows),
        {
            "settings": config.shape.model_dump() | {"precision": precision},
            "seconds": seconds,
            "encoder_product": reference,
        },
        ("Means under torch's profiler, which adds overhead; the tables above were measured without it.",),
    )


def stage_seconds(events: list[FunctionEvent], n_steps: int, *, on_device: bool) -> dict[str, float]:
    """Mean seconds of each stage per step, excluding the stages inside it."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type.name != "CPU":
            continue  # GPU kernels and their ranges: their time is attributed to the events that launched them.
        stage = _stage(event)
        if stage is None:
            continue
        spent = (event.device_time_total if on_device else event.cpu_time_total) / 1e6 / n_steps
        seconds[stage] += spent
        outer = _enclosing_stage(event)
        if outer is not None:
            seconds[outer] -= spent
    return dict(seconds)


def _stage(event: FunctionEvent) -> str | None:
    """The stage that an event begins within a step; None for all other events."""
    outermost = {PRODUCT: PRODUCT, STEP: REST}.get(event.name)
    if outermost is not None:
        return outermost
    outer = _enclosing_stage(event)
    if outer is None or outer == PRODUCT:
        return None
    if event.name in _NODES:
        return _NODES[event.name]
    if event.name.startswith(_ANY_NODE):
        return "gradients of loss and AuxK"
    if event.name in (name for _, _, name in _FUNCTIONS):
        return _INSIDE.get((outer, event.name), event.name)
    return None


def _enclosing_stage(event: FunctionEvent) -> str | None:
    """The innermost stage that contains an event."""
    parent = event.cpu_parent
    while parent is not None:
        stage = _stage(parent)
        if stage is not None:
            return stage
        parent = parent.cpu_parent
    return None


@contextmanager
def _recorded() -> Iterator[None]:
    """Wrap the functions in `_FUNCTIONS` so that torch's profiler records them."""
    originals = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in _FUNCTIONS]
    try:
        for (owner, attribute, function), (_, _, name) in zip(originals, _FUNCTIONS, strict=True):
            setattr(owner, attribute, _record(function, name))
        yield
    finally:
        for owner, attribute, function in originals:
            setattr(owner, attribute, function)


def _record(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return function(*arguments, **options)

    return recorded
