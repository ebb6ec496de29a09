"""Read a PEFT adapter from its folder or the Hub, and attach it to a base model."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from jaxtyping import Int
from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights
from torch import Tensor, nn

from ..errors import PairError
from .decoder_layers import vocabulary_size
from .load_errors import reading
from .loading import locate
from .module_patterns import adapter_patterns, check_patterns
from .placement import is_offloaded, move

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 16

_WEIGHT_FILES = "adapter_model.safetensors", "adapter_model.bin"

_STORED_PREFIX = "base_model.model."

# What peft calls a module of the base inside the module that it wraps around it.
_WRAPPER_PARTS = frozenset({"base_layer", "original_module", "modules_to_save", "token_adapter"})


class AdapterRequest(NamedTuple):
    """An adapter that a setting names."""

    setting: str
    adapter: str
    """Folder or Hub id."""

    name: str
    """Name of the adapter within the base model."""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as it is stored, checked against the reference."""

    request: AdapterRequest
    config: PeftConfig
    path: str
    weights: Mapping[str, Tensor]
    base_names: frozenset[str]
    """Names of the bare reference's tensors."""

    vocabulary_size: int | None
    """Vocabulary size of the base that it was trained on; None: that of the reference."""

    probe: Int[Tensor, "document token"]
    """Token ids with all those that the settings of the adapter name."""

    @property
    def kind(self) -> str:
        """The name of the kind of adapter, such as LORA."""
        return str(getattr(self.config.peft_type, "value", self.config.peft_type))

    def __str__(self) -> str:
        return f"{self.request.setting}: {self.request.adapter!r}"


def read_adapter(request: AdapterRequest, reference: Any, device: torch.device) -> StoredAdapter:
    """Read an adapter and check what can be checked before it is attached.

    Raises:
        PairError: The adapter is missing, adds virtual tokens, or names tokens that the reference does not have.
        FormatError: Its weight file is damaged.
    """
    setting, adapter, _ = request
    if is_offloaded(reference):
        raise PairError(
            f"{setting}: {adapter!r} cannot be attached, because pair.reference.device_map leaves weights on the cpu or the disk and loads them for "
            "each pass, and an adapter would have to be proven on them; give a device_map without cpu and disk, or merge the adapter into "
            "a checkpoint"
        )
    path = locate(setting, adapter)
    config = _read_config(setting, adapter, path)
    if config.is_prompt_learning:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise PairError(
            f"{setting}: {adapter!r} is of type {kind}, which adds virtual tokens, so the positions of the two models do not match; give an "
            "adapter of weights, e.g. LoRA"
        )
    _warn_of_another_base(f"{setting}: {adapter!r}", config, reference)
    modules = [name for name, _ in reference.named_modules()]
    check_patterns(f"{setting}: {adapter!r}", adapter_patterns(config), modules)
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in _WEIGHT_FILES):
        raise PairError(f"{setting}: {adapter!r} has no weights; give a folder with {_WEIGHT_FILES[0]}")
    with reading(f"{setting}: {adapter!r}", "has no weights that can be read"):
        weights = load_peft_weights(path, device="cpu")
    size = vocabulary_size(reference)
    resized = next((n for n in _vocabulary_sizes(reference, weights) if n != size), None)
    named = list(_named_tokens(config))
    known = resized or size
    if unknown := [token for tokens in named for token in tokens if not 0 <= token < known]:
        raise PairError(
            f"{setting}: the settings of {adapter!r} name the token {unknown[0]}, but the vocabulary has {known} tokens; was it trained on another "
            f"model (its config names {config.base_model_name_or_path!r})?"
        )
    # Added tokens occur in no text that the reference reads.
    common = min(size, known)
    probe = _probe([tokens for tokens in named if max(tokens) < common], common).to(device)
    return StoredAdapter(request, config, path, weights, frozenset(reference.state_dict()), resized, probe)


def _warn_of_another_base(subject: str, config: PeftConfig, reference: nn.Module) -> None:
    """Warn if the adapter's own config names another model than the reference: of the same shapes, it fits without a word.

    Names are compared by their last part, because a model may lie anywhere; so that is no proof, and no refusal.
    """
    named: Any = config.base_model_name_or_path
    found = str(getattr(reference.config, "_name_or_path", ""))
    pieces = {piece.casefold() for part in found.split("/") for piece in (part, *part.split("--"))}
    if named and found and str(named).rstrip("/").rsplit("/", 1)[-1].casefold() not in pieces:
        logger.warning(
            "%s was trained on %r, as its config says, and the reference is %r; on other weights than those of its training, "
            "the intervened model is one that nobody trained",
            subject,
            named,
            found,
        )


def _read_config(setting: str, adapter: str, path: str) -> PeftConfig:
    """Read the settings of an adapter. Raises PairError if there are none, or if peft does not know their kind."""
    subject = f"{setting}: {adapter!r}"
    with reading(subject, "is not a PEFT adapter"):
        try:
            return PeftConfig.from_pretrained(path)
        except KeyError as error:
            raise PairError(
                f"{subject}: peft_type in adapter_config.json is {error.args[0]!r}, which peft {peft.__version__} does not know"
            ) from error


def attach(
    base: nn.Module | PeftModel, adapter: StoredAdapter, device: torch.device, seed: int = 0
) -> PeftModel:
    """Attach an adapter to a base model, or to one that has adapters already.

    Args:
        seed: Of the random numbers that peft may use meanwhile.

    Raises:
        PairError: It does not fit the base.
        ResourceError: A package that it needs is not installed.
    """
    name, config = adapter.request.name, adapter.config
    with (
        reading(str(adapter), "does not fit the reference"),
        warnings.catch_warnings(),
        _seeded(seed, device),
    ):
        # peft 0.21 reads an attribute that transformers 5 renamed; users cannot fix this.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # Missing weights raise an error below.
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
        if isinstance(base, PeftModel):
            model = base
            model.load_adapter(adapter.path, name)
        else:
            network: Any = base
            if adapter.vocabulary_size is not None:
                network.resize_token_embeddings(adapter.vocabulary_size, mean_resizing=False)
            model = PeftModel.from_pretrained(network, adapter.path, name, config=config, is_trainable=False)
        loaded = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    _check_complete(adapter, model, loaded)
    move(model.eval().requires_grad_(False), device)
    return model


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers, and restore their state afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _check_complete(adapter: StoredAdapter, model: PeftModel, loaded: Mapping[str, Tensor]) -> None:
    """Check that the file holds all weights of the adapter, and that the model holds all weights of the file.

    The file may also hold weights of the base, as peft saves them for an adapter on the embeddings.

    Raises:
        PairError: A weight is missing on either side.
    """
    state: dict[str, Tensor] | None = None
    unmatched = sorted(loaded.keys() - adapter.weights.keys())
    for name in sorted(adapter.weights.keys() - loaded.keys()):
        path = name.removeprefix(_STORED_PREFIX).split(".")
        if ".".join(part for part in path if part not in _WRAPPER_PARTS) not in adapter.base_names:
            unmatched.append(name)
            continue
        if not {"original_module", "modules_to_save"}.isdisjoint(path):
            # A second copy: the first is not read while the adapter is on, the other is stored under the name of its module, too.
            continue
        module, _, parameter = name.rpartition(".")
        state = model.state_dict() if state is None else state
        names = (name, f"{module}.base_layer.{parameter}")
        held = next((state[other] for other in names if other in state), None)
        if held is None or not torch.equal(held.cpu(), adapter.weights[name].to(held.dtype)):
            unmatched.append(name)
    if unmatched:
        raise PairError(
            f"{adapter.request.setting}: {len(unmatched)} weights of {adapter.request.adapter!r} and of the reference do not match, e.g. "
            f"{unmatched[0]}; was it trained on another model (its config names {adapter.config.base_model_name_or_path!r})?"
        )


def _vocabulary_sizes(reference: Any, weights: Mapping[str, Tensor]) -> Iterator[int]:
    """Yield the vocabulary size that each stored weight of the embeddings or the unembedding implies."""
    ends = reference.get_input_embeddings(), reference.get_output_embeddings()
    paths = [
        path for path, module in reference.named_modules() if path and any(module is end for end in ends)
    ]
    for name, weight in weights.items():
        module = name.removeprefix(_STORED_PREFIX)
        if weight.ndim != 2 or not any(module.startswith(f"{path}.") for path in paths):
            continue
        if "lora_embedding_A" in module:
            yield weight.shape[1]
        elif (
            module.endswith((".base_layer.weight", ".lora_B.weight"))
            or module.removesuffix(".weight") in paths
        ):
            yield weight.shape[0]


def _named_tokens(config: PeftConfig) -> Iterator[list[int]]:
    """Yield the lists of token ids in the settings of an adapter, at most `_PROBE_TOKENS` of them at a time."""
    for name, value in config.to_dict().items():
        if "token" not in name:
            continue
        for entry in value.values() if isinstance(value, dict) else (value,):
            if isinstance(entry, list) and entry and all(type(token) is int for token in entry):
                yield from (entry[i : i + _PROBE_TOKENS] for i in range(0, len(entry), _PROBE_TOKENS))


def _probe(named: list[list[int]], vocabulary_size: int) -> Int[Tensor, "document token"]:
    """Return documents of the same length: one of assorted tokens, and one with each of the lists of tokens in its middle."""
    plain = (7 * torch.arange(2 * _PROBE_TOKENS) + 3) % vocabulary_size
    documents = [plain]
    for tokens in named:
        document = plain.clone()
        document[4 : 4 + len(tokens)] = torch.tensor(tokens)
        documents.append(document)
    return torch.stack(documents)


def adapter_settings(config: PeftConfig) -> dict[str, Any]:
    """Return the settings of an adapter that change what its weights compute, as JSON."""
    default = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config)
    }
    given = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _NOT_COMPUTED and value != default.get(name)
    }
    scale = {name: getattr(config, name, None) for name in _SCALE}
    return json.loads(json.dumps(given | scale, default=_as_json, sort_keys=True))


def _as_json(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


_SCALE = "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"

# Settings of training, names, and the modules that the names of the weights tell already.
_NOT_COMPUTED = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "bias", "inference_mode", "lora_dropout", "modules_to_save",
        "peft_type", "peft_version", "revision", "runtime_config", "target_modules", "exclude_modules", "task_type",
    }
)  # fmt: skip
