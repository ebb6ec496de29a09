"""Where the weights of a model lie: all on one device, on several, or partly in main memory or on the disk (`device_map`).

accelerate moves the inputs of each module to its device, and loads weights that lie elsewhere (their tensors are on the device `meta`) for
the time in which their module runs. What reads weights outside of a forward pass has to ask for them here.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..config import ModelSource
from ..config.messages import show
from ..errors import PairError, did_you_mean
from .load_errors import reading


def map_options(subject: str, source: ModelSource, config: Any, auto: Any) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where modules lie.

    In a map by module path the longest path that holds a module counts; accelerate takes none that lies in another.

    Args:
        config: config.json of the checkpoint.
        auto: The class of transformers that loads it.

    Raises:
        PairError: The map names a module or device that does not exist, or leaves modules out.
    """
    chosen = source.device_map
    if chosen is None:
        return {}
    if isinstance(chosen, dict):
        for device in chosen.values():
            _check_device(subject, device)
        if set(chosen) != {""}:
            with reading(subject), torch.device("meta"):
                model = auto.from_config(config, trust_remote_code=source.trust_remote_code)
            chosen = _expanded(subject, chosen, model)
    folder = source.offload_folder
    return {"device_map": chosen, "offload_folder": None if folder is None else str(folder.expanduser())}


def _expanded(subject: str, chosen: dict[str, int | str], model: nn.Module) -> dict[str, int | str]:
    """Return the device of each module that holds tensors itself."""
    modules = dict(model.named_modules())
    if unknown := [path for path in chosen if path not in modules]:
        raise PairError(
            f"{subject} has no module {show(unknown[0])}, which device_map names{did_you_mean(unknown[0], modules)}"
        )
    found: dict[str, int | str] = {}
    for path, module in modules.items():
        if not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            continue
        holders = [one for one in chosen if one in ("", path) or path.startswith(f"{one}.")]
        if not holders:
            raise PairError(
                f'{subject}: device_map says nothing of {path}; name it, or a module around it, or give "" for the rest'
            )
        found[path] = chosen[max(holders, key=len)]
    return found


def _check_device(subject: str, device: int | str) -> None:
    if device in ("cpu", "disk"):
        return
    n_devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    try:
        kind, index = (
            ("", device)
            if isinstance(device, int)
            else (torch.device(device).type, torch.device(device).index)
        )
    except RuntimeError:
        raise PairError(
            f"{subject}: device_map names {show(str(device))}, which is no device; give cpu, disk, or the number of a GPU"
        ) from None
    here = torch.accelerator.current_accelerator() if n_devices else None
    if here is None or kind not in ("", here.type) or (index or 0) >= n_devices:
        raise PairError(
            f"{subject}: device_map names the device {show(str(device))}, which is not there: torch finds {n_devices} GPUs; give cpu or disk, or auto"
        )


def place(model: nn.Module, source: ModelSource, device: torch.device) -> nn.Module:
    """Move a model to `device`; one with a map of its own stays where it is, and takes its inputs from `device`."""
    if source.device_map is None:
        return model.to(device)
    here = input_device(model)
    if here != device and getattr(model, "_hf_hook", None) is None:
        add_hook_to_module(model, AlignDevicesHook(execution_device=here, io_same_device=True))
    return model


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to `device`, unless its modules were placed one by one."""
    return model if is_spread(model) else model.to(device)


def is_spread(model: nn.Module) -> bool:
    """Whether accelerate moves inputs or weights of this model while it runs."""
    return any(getattr(module, "_hf_hook", None) is not None for module in model.modules())


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are loaded only for the time in which their module runs."""
    return any(tensor.is_meta for tensor in model.parameters())


def input_device(model: nn.Module) -> torch.device:
    """Return the device on which a model begins to run."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    first = next((tensor.device for tensor in tensors), torch.device("cpu"))
    if first.type != "meta":
        return first
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), "cpu"))


def loaded(module: nn.Module) -> AbstractContextManager[None]:
    """Hold the weights of one module, without those of its children, on the device on which it runs."""
    return align_module_device(module)


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every entry of `state_dict` with its name, sorted by name. One that lies elsewhere is valid only until the next is asked for."""
    for name, tensor in sorted(model.state_dict().items()):
        if not tensor.is_meta:
            yield name, tensor
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        with loaded(module):
            yield name, getattr(module, leaf)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds its numbers itself, rather than as codes that a scale belongs to; 8-bit floating point has one."""
    return (
        tensor.is_floating_point() and tensor.element_size() > 1 and not is_traceable_wrapper_subclass(tensor)
    )


def n_bytes(tensor: Tensor) -> int:
    """Return how many bytes a tensor takes where it lies."""
    return sum(part.numel() * part.element_size() for part in plain_parts(tensor))


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a tensor consists of: itself, or the codes and scales of a quantized one."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def same_weights(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit and lie in the memory of the same device, so that one can stand for the other."""
    parts, others = plain_parts(one), plain_parts(other)
    return len(parts) == len(others) and all(
        left.dtype == right.dtype
        and left.device == right.device
        and not left.is_meta
        and torch.equal(left, right)
        for left, right in zip(parts, others, strict=True)
    )


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module, and take from it, meanwhile, what accelerate set on it, so that it can be copied alone."""
    names = "_hf_hook", "forward", "_old_forward"
    kept = {name: vars(module).pop(name) for name in names if name in vars(module)}
    try:
        yield module
    finally:
        vars(module).update(kept)
