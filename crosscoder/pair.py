"""The language models that are compared, and what they compute on the same tokens."""

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase

from .alignment import TextReader
from .config import AdapterSource, ContextSource, ModelSource, PairConfig
from .context import Context
from .device import resolve_device
from .errors import PairError
from .hooks import Splice, forward, hidden, read_output, splice_output
from .joint_pass import JointPass
from .loading import (
    adapter_tokenizer,
    digest_json,
    digest_tensors,
    find_module,
    load_adapter,
    load_model,
    load_tokenizer,
    vocabulary,
)
from .reading import model_names
from .resumption import Resumption
from .snapshots import load_snapshots
from .text_readers import own_readers, shared_template

logger = logging.getLogger(__name__)

# Rows of the unembedding that are turned to float32 at a time, so that a large vocabulary needs no copy of it all.
_VOCABULARY_CHUNK = 32768


class FullPass(NamedTuple):
    """What one model computes on some documents, beyond any hookpoint."""

    logits: Float[Tensor, "document token vocabulary"]
    hidden_states: tuple[Float[Tensor, "document token _"], ...] | None
    """The embeddings, then each layer's output, the last after the final norm; None where a model does not report them."""


class ModelPair:
    """Reference and intervened model, and the snapshots between them, in eval mode; nothing here records gradients. Made by
    `load_pair`."""

    def __init__(
        self,
        config: PairConfig,
        models: tuple[nn.Module, ...],
        adapter: PeftModel | None,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None,
        device: torch.device,
        context: Context | None = None,
        adapter_names: tuple[str | None, ...] = (None, "default"),
        readers: tuple[TextReader, TextReader] | None = None,
    ) -> None:
        """Entries of `models` are the same object for an adapter, a context, or a model compared with itself.

        Args:
            context: What the intervened model reads before every document.
            adapter_names: Of each model, the adapter that is on in it, where there are any.
            readers: Both models' tokenizers and chat templates, where the tokenizers differ.
        """
        self.config = config
        self.models = models
        self.model_names = model_names(len(models))
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.device = device
        between = len(models) - 2
        self.hookpoints = (
            config.hookpoint,
            config.intervened_hookpoint or config.hookpoint,
            *[config.hookpoint] * between,
        )
        settings = (
            "pair.hookpoint",
            "pair.intervened_hookpoint" if config.intervened_hookpoint else "pair.hookpoint",
            *["pair.hookpoint"] * between,
        )
        self._adapter = adapter
        self._adapter_names = adapter_names if adapter is not None else (None,) * len(models)
        self.context = context
        self.readers = readers
        self._identity: dict[str, Any] | None = None
        self._final_norms: dict[int, nn.Module] = {}
        self._resumptions: dict[int, Resumption] = {}
        # Hooks and a switched adapter are states of the models, so only one thread may use them at a time.
        self._lock = threading.RLock()
        self._modules = tuple(
            find_module(setting, model, path, name)
            for setting, model, path, name in zip(
                settings, models, self.hookpoints, [source.model for source in self._sources()], strict=True
            )
        )
        self.d_models: tuple[int, ...] = tuple(self._probe(index) for index in range(len(models)))
        self._both = JointPass(self._read, models, self.hookpoints, device, context, self._same_as())

    @property
    def identical(self) -> bool:
        """Whether both sides are the same computation, as in an identity control."""
        return self._same_as()[1] == 0

    @property
    def max_positions(self) -> int | None:
        """Tokens of a document that all models can read at once, where their configurations say so."""
        limits = [getattr(model.config, "max_position_embeddings", None) for model in self.models]
        longest = min((limit for limit in limits if isinstance(limit, int)), default=None)
        return longest if longest is None or self.context is None else max(0, longest - len(self.context))

    def identity(self) -> dict[str, Any]:
        """What decides the activations, as JSON: names, revisions, and digests of weights, tokenizer and template."""
        if self._identity is None:
            self._identity = self._digest()
        return self._identity

    def activations(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        n_prefix: int = 0,
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """What each model puts out at its hookpoint, reference first: `[document, token, d_model]`.

        Documents are padded on the right. Each pass ends at its hookpoint: later layers and the head are not run.
        Layers at the bottom that are the same in both models are run once; that does not change a bit.

        Args:
            n_prefix: Tokens with which all these documents begin. They are run once, which changes no more than the
                rounding; models that cannot continue a prefix run them in every document. Every document is longer.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        with self._lock:
            return self._both(ids, mask, n_prefix)

    def activations_of(
        self,
        model: int,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
    ) -> Float[Tensor, "document token d_model"]:
        """What one model puts out at its hookpoint on token ids of its own, where the tokenizers differ."""
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        return self._read(model, ids, mask)

    def tokenizer_of(self, model: int) -> PreTrainedTokenizerBase:
        """The tokenizer of one model."""
        return self.tokenizer if self.readers is None or model > 1 else self.readers[model].tokenizer

    def logits(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        splice: Splice | None,
        model: int,
        *,
        gradients: bool = False,
        n_last: int | None = None,
    ) -> Float[Tensor, "document last_token vocabulary"]:
        """Logits of model 0 (reference) or 1 (intervened), with its activations replaced by `splice(activations)`.

        Args:
            gradients: Whether they flow back to what the splice gives.
            n_last: Of so many tokens at the end; none: of all.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        context = self.context if model == 1 else None
        if context is not None:
            ids, mask = context.before(ids, mask)
            splice = None if splice is None else context.spliced(splice)
            n_last = token_ids.shape[1] if n_last is None else n_last
        with self.switched(model) as network:
            if splice is None:
                return forward(network, ids, mask, gradients=gradients, n_last=n_last).logits
            module = self._modules[model]
            return splice_output(network, module, splice, ids, mask, gradients=gradients, n_last=n_last)

    def resume(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        activations: Float[Tensor, "document token d_model"],
        model: int,
        *,
        gradients: bool = False,
        n_last: int | None = None,
    ) -> Float[Tensor, "document last_token vocabulary"]:
        """Logits of one model whose hookpoint puts out `activations`: of its own, or of the other model where widths agree.

        Args:
            gradients: Whether they flow from the logits back to `activations`.
            n_last: Of so many tokens at the end; none: of all.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        with self.switched(model) as network:
            if model not in self._resumptions:
                self._resumptions[model] = Resumption(
                    network,
                    self._modules[model],
                    self.hookpoints[model],
                    self.device,
                    self.context if model == 1 else None,
                )
            return self._resumptions[model](ids, mask, activations, gradients=gradients, n_last=n_last)

    def at(self, hookpoint: str, intervened_hookpoint: str | None = None) -> "ModelPair":
        """The same two models, read elsewhere. Their hooks are shared, so only one of the pairs may be in use at a time.

        Raises:
            PairError: There is no such module.
        """
        config = self.config.model_copy(
            update={"hookpoint": hookpoint, "intervened_hookpoint": intervened_hookpoint}
        )
        return ModelPair(
            config,
            self.models,
            self._adapter,
            self.tokenizer,
            self.chat_template,
            self.device,
            self.context,
            self._adapter_names,
            self.readers,
        )

    def module(self, model: int) -> nn.Module:
        """The module of one model that is read: its hookpoint."""
        return self._modules[model]

    def direction_logits(
        self, directions: Float[Tensor, "latent d_model"], model: int
    ) -> Float[Tensor, "latent vocabulary"]:
        """Logit lens: directions through the final norm and the unembedding of one model, in float32.

        Source: nostalgebraist 2020, "interpreting GPT: the logit lens". A norm with a bias adds the same to every row.

        Raises:
            PairError: The model has no final norm before its unembedding.
        """
        with self.switched(model) as network, torch.no_grad():
            norm = copy.deepcopy(self.final_norm(model)).float()
            normed = norm(directions.to(self.device, torch.float32))
            head = network.get_output_embeddings()
            if type(head) is not nn.Linear:
                return head(normed.to(next(head.parameters()).dtype)).float()
            parts = [normed @ rows.float().T for rows in head.weight.split(_VOCABULARY_CHUNK)]
            logits = torch.cat(parts, dim=1)
            bias: Tensor | None = getattr(head, "bias", None)
            return logits if bias is None else logits + bias.float()

    def final_norm(self, model: int) -> nn.Module:
        """The norm whose output the unembedding reads, found by watching a pass; architectures name it differently.

        Raises:
            PairError: The model has none.
        """
        if model not in self._final_norms:
            network: Any = self.models[model]
            seen: list[tuple[nn.Module, Tensor]] = []
            read: list[Tensor] = []
            handles = [
                module.register_forward_hook(lambda module, _, output: seen.append((module, hidden(output))))
                for module in network.modules()
                if "norm" in type(module).__name__.lower()
            ]
            head = network.get_output_embeddings()
            handles.append(head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])))
            ids = torch.zeros(1, 3, dtype=torch.long, device=self.device)
            try:
                forward(network, ids, torch.ones_like(ids, dtype=torch.bool))
            finally:
                for handle in handles:
                    handle.remove()
            if not seen or not read or not torch.equal(seen[-1][1], read[0]):
                raise PairError(
                    f"pair.{self.model_names[model]}: {self._sources()[model].model!r} has no norm right before its unembedding, "
                    "so directions cannot be read as tokens; give a model with a final norm"
                )
            self._final_norms[model] = seen[-1][0]
        return self._final_norms[model]

    def layer(self, model: int) -> int | None:
        """Number of the decoder layer that a hookpoint is; None where it is another module."""
        parent, _, last = self.hookpoints[model].rpartition(".")
        network: Any = self.models[model]
        layers = network.get_submodule(parent)
        counts = isinstance(layers, nn.ModuleList) and len(layers) == network.config.num_hidden_layers
        return int(last) if counts and last.isdigit() else None

    def full_pass(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        model: int,
    ) -> FullPass:
        """A whole pass of one model as transformers itself reports it: to check `activations` against, and to survey."""
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        context = self.context if model == 1 else None
        if context is not None:
            ids, mask = context.before(ids, mask)
        with self.switched(model) as network:
            output = forward(network, ids, mask, output_hidden_states=True)
        if context is None:
            return FullPass(output.logits, output.hidden_states)
        states: tuple[Tensor, ...] | None = output.hidden_states
        return FullPass(
            context.after(output.logits), None if states is None else tuple(map(context.after, states))
        )

    @contextmanager
    def switched(self, model: int) -> Iterator[Any]:
        """The plain transformers model of one side, with its adapter on, or with every adapter off in the reference."""
        with self._lock:
            network, name = self.models[model], self._adapter_names[model]
            if self._adapter is None or network is not self._adapter.get_base_model():
                yield network
            elif name is None:
                with self._adapter.disable_adapter():
                    yield network
                self._adapter.requires_grad_(False)  # peft makes what it switches on trainable
            else:
                if self._adapter.active_adapter != name:
                    self._adapter.set_adapter(name)
                    self._adapter.requires_grad_(False)
                yield network

    def _same_as(self) -> tuple[int, ...]:
        """For each model the first one that is the same computation."""
        first: dict[tuple[int, str | None, int, bool], int] = {}
        return tuple(
            first.setdefault((id(network), name, id(module), self.context is not None and index == 1), index)
            for index, (network, name, module) in enumerate(
                zip(self.models, self._adapter_names, self._modules, strict=True)
            )
        )

    def _digest(self) -> dict[str, Any]:
        digests: dict[int, str] = {}
        sides: list[dict[str, Any]] = []
        for index, model in enumerate(self.models):
            if id(model) not in digests:
                digests[id(model)] = digest_tensors(_base_tensors(model, self._adapter))
            source = self._sources()[index]
            sides.append(
                {
                    "model": source.model,
                    "revision": source.revision or getattr(model.config, "_commit_hash", None),
                    "dtype": source.dtype,
                    "weights": digests[id(model)],
                    "hookpoint": self.hookpoints[index],
                    "d_model": self.d_models[index],
                    "adapter": None,
                    "adapter_weights": None,
                }
            )
        if self.context is not None:
            ids = self.context.token_ids.tolist()
            sides[1] |= {"context": self.tokenizer.decode(ids), "context_digest": digest_json(ids)}
        for side, name, source in zip(sides, self._adapter_names, self._described(), strict=True):
            if self._adapter is not None and name is not None and isinstance(source, AdapterSource):
                side["adapter"] = source.adapter
                side["adapter_weights"] = _digest_adapter(self._adapter, name)
        own = {}
        if self.readers is not None:
            tokenizer, template, _ = self.readers[1]
            own = {
                "intervened_tokenizer": digest_json(vocabulary(tokenizer)),
                "intervened_chat_template": digest_json(template),
            }
        return {
            **dict(zip(self.model_names, sides, strict=True)),
            "tokenizer": digest_json(vocabulary(self.tokenizer)),
            "chat_template": digest_json(self.chat_template),
            **own,
        }

    def _read(
        self,
        index: int,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        past: Cache | None = None,
    ) -> Float[Tensor, "document token d_model"]:
        with self.switched(index) as network:
            output = read_output(network, self._modules[index], token_ids, mask, past)
        if output is None or output.ndim != 3 or output.shape[:2] != token_ids.shape:
            found = "it is never run" if output is None else f"its output has the shape {tuple(output.shape)}"
            raise PairError(
                f"pair.hookpoint: {self.hookpoints[index]!r} of {self._sources()[index].model!r} gives no activations "
                f"[document, token, d_model]: {found}; give the path of a layer, e.g. model.layers.15"
            )
        return output

    def _probe(self, index: int) -> int:
        """Width at the hookpoint, from a pass over one short document."""
        ids = torch.zeros(1, 3, dtype=torch.long, device=self.device)
        return self._read(index, ids, torch.ones_like(ids, dtype=torch.bool)).shape[-1]

    def _described(self) -> tuple[ModelSource | AdapterSource | ContextSource, ...]:
        """What the settings say of each model."""
        return self.config.reference, self.config.intervened, *self.config.snapshots

    def _sources(self) -> list[ModelSource]:
        """The checkpoint of each model; with an adapter or after a context it is the reference's."""
        described = self._described()
        return [source if isinstance(source, ModelSource) else self.config.reference for source in described]


def load_pair(config: PairConfig) -> ModelPair:
    """Load all models and check that they can be compared.

    With adapters there is one set of base weights, read with each of them off and on. The same model on both sides, or before
    and after a context, is loaded once. The chat template is the intervened model's, or the reference's where it has none.

    Raises:
        PairError: A model or the hookpoint is missing, the tokenizers differ, or an adapter does not fit.
        FormatError: A weight file is damaged.
        ConfigError: The device is not there.
    """
    device = resolve_device("pair.device", config.device)
    reference = load_model("pair.reference.model", config.reference, device)
    tokenizer = load_tokenizer("pair.reference.model", config.reference.model, config.reference.revision)
    adapter: PeftModel | None = None
    if isinstance(config.intervened, AdapterSource):
        adapter = load_adapter(reference, config.intervened.adapter, device)
        intervened, name = adapter.get_base_model(), config.intervened.adapter
        reference = intervened
        other = adapter_tokenizer(name) or tokenizer
    elif isinstance(config.intervened, ContextSource) or config.intervened == config.reference:
        intervened, name, other = reference, config.reference.model, tokenizer
    else:
        name = config.intervened.model
        intervened = load_model("pair.intervened.model", config.intervened, device)
        other = load_tokenizer("pair.intervened.model", name, config.intervened.revision)
    names = config.reference.model, name
    readers = own_readers(config, (tokenizer, other), names)
    chat_template = shared_template(tokenizer, other) if readers is None else readers[0].chat_template
    context = (
        Context.encode(config.intervened, tokenizer, chat_template)
        if isinstance(config.intervened, ContextSource)
        else None
    )
    networks = load_snapshots(config, (reference, intervened), adapter, tokenizer, device)
    return ModelPair(
        config,
        networks.models,
        networks.adapter,
        tokenizer,
        chat_template,
        device,
        context,
        networks.adapter_names,
        readers,
    )


def _digest_adapter(adapter: PeftModel, name: str) -> str:
    """A fingerprint of what one adapter adds: its weights, and the settings that scale them."""
    settings = adapter.peft_config[name].to_dict()
    scale = {
        key: settings.get(key) for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    }
    own = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    return digest_json([digest_tensors({name: tensor.float() for name, tensor in own.items()}), scale])


def _base_tensors(model: nn.Module, adapter: PeftModel | None) -> dict[str, Tensor]:
    """The weights of a model without those of an adapter, under the names they have without one."""
    tensors = model.state_dict()
    if adapter is None:
        return tensors
    own = f".{adapter.base_model.prefix}"
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if own not in name}
