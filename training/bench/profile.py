"""Where the time of a sparse step goes, by its own stages."""

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
from crosscoder.runtime.timing import Figures

from .. import losses
from ..forward import Forward
from .settings import BenchConfig
from .step import EncoderProduct, Precision, warmed_step

STEP, PRODUCT, REST = "step", "encoder product alone", "everything else"

# Functions of a step that are stages by themselves, and what they are called there.
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

# What torch names by itself: nodes of the graph, and the optimizer.
_NODES = {
    "_WeightedSum": "decode",
    "_Products": "encode and select",
    "_WeightedSumBackward": "gradient of decoder",
    "_ProductsBackward": "gradient of encoder",
    "Optimizer.step#Adam.step": "optimizer",
}
_ANY_NODE = "autograd::engine::evaluate_function: "

# A function that several stages call is a part of the one that called it.
_INSIDE = {
    ("decode", "weighted sum"): "decode",
    ("gradient of decoder", "products"): "gradient of codes",
    ("gradient of decoder", "weighted sum"): "gradient of decoder",
    ("gradient of encoder", "weighted sum"): "gradient of encoder",
    ("AuxK", "loss"): "AuxK",
}


def profile_step(config: BenchConfig, precision: Precision, device: torch.device) -> Figures:
    """Time of the stages of a sparse step, means over the configured number of steps, as torch's profiler sees them."""
    with warmed_step(config, config.shape, precision, device) as (step, batches):
        product = EncoderProduct(step.trainer.state.crosscoder, batches, step.trainer.forward.dtype)
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        # With a GPU, autograd walks back in a thread of its own, where nothing tells that a step is under way.
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
        (stage, f"{own * 1e3:.4g}", f"{own / total:.1%}", f"{own / reference:.2f}") for stage, own in shares
    ]
    rows.append(("the step", f"{total * 1e3:.4g}", "100.0%", f"{total / reference:.2f}"))
    rows.append((PRODUCT, f"{reference * 1e3:.4g}", f"{reference / total:.1%}", "1.00"))
    return Figures(
        f"Profile of the sparse step: {config.shape}, {precision}",
        ("stage", "ms", "share", "× encoder product"),
        tuple(rows),
        {
            "settings": config.shape.model_dump() | {"precision": precision},
            "seconds": seconds,
            "encoder_product": reference,
        },
        (
            "Means of a run under torch's profiler, which costs some time itself; the tables above are without it.",
        ),
    )


def stage_seconds(events: list[FunctionEvent], n_steps: int, *, on_device: bool) -> dict[str, float]:
    """Mean seconds of every stage in a step: its own, without those of the stages inside it."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type.name != "CPU":
            continue  # Kernels, and ranges of them: their time is in what started them.
        stage = _stage(event)
        if stage is None:
            continue
        spent = (event.device_time_total if on_device else event.cpu_time_total) / 1e6 / n_steps
        seconds[stage] += spent
        above = _enclosing(event)
        if above is not None:
            seconds[above] -= spent
    return dict(seconds)


def _stage(event: FunctionEvent) -> str | None:
    """The stage of an event that begins one, inside a step; None for all others."""
    own = {PRODUCT: PRODUCT, STEP: REST}.get(event.name)
    if own is not None:
        return own
    above = _enclosing(event)
    if above is None or above == PRODUCT:
        return None
    if event.name in _NODES:
        return _NODES[event.name]
    if event.name.startswith(_ANY_NODE):
        return "gradients of loss and AuxK"
    if event.name in (name for _, _, name in _FUNCTIONS):
        return _INSIDE.get((above, event.name), event.name)
    return None


def _enclosing(event: FunctionEvent) -> str | None:
    """The stage that an event is a part of."""
    parent = event.cpu_parent
    while parent is not None:
        stage = _stage(parent)
        if stage is not None:
            return stage
        parent = parent.cpu_parent
    return None


@contextmanager
def _recorded() -> Iterator[None]:
    """Let torch's profiler see the functions that are stages."""
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in _FUNCTIONS]
    try:
        for (owner, attribute, function), (_, _, name) in zip(before, _FUNCTIONS, strict=True):
            setattr(owner, attribute, _named(function, name))
        yield
    finally:
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return function(*arguments, **options)

    return recorded
