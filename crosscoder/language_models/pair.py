"""The pair: the language models that are compared, and their activations and logits on the same tokens."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase

from ..config import PairConfig
from ..config.model_names import model_names
from ..errors import PairError
from ..runtime.device import resolve_device
from ..runtime.model_dtypes import settle_dtypes
from ..text.token_alignment import TextReader
from .context import Context
from .decoder_layers import find_decoder_layers, find_stack, middle_layer, recorded_layers, text_settings
from .forward_from_hookpoint import ForwardFromHookpoint
from .hook_places import with_module_paths
from .hooks import FullPass, Splice, forward, read_output, read_outputs, splice_output
from .identity import identify_context, identify_models, identify_texts
from .joint_forward import JointForward
from .loading import find_module
from .networks import Networks
from .pair_models import load_networks
from .tokenizers import TextInputs, load_text_inputs
from .unembedding import TokenRows, direction_logits, find_final_norm, token_cosines, token_rows


class ModelPair:
    """Reference, intervened model and the snapshots between them, in eval mode. Loaded by `load_pair`.

    Parameters are frozen; passes record gradients only on request.
    """

    def __init__(
        self,
        config: PairConfig,
        networks: Networks,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None,
        device: torch.device,
        context: Context | None = None,
        readers: tuple[TextReader, TextReader] | None = None,
    ) -> None:
        """
        Args:
            context: What the intervened model reads before every document.
            readers: Tokenizer and chat template of both models, if the tokenizers differ.
        """
        self.networks, self.models = networks, networks.models
        self.model_names = model_names(len(self.models))
        self.tokenizer, self.chat_template, self.readers = tokenizer, chat_template, readers
        self.device, self.context = device, context
        self._final_norms: dict[int, nn.Module] = {}
        self._token_rows: dict[int, TokenRows] = {}
        self._set_hookpoints(config)
        # Verify shared layers now rather than in the first pass.
        _ = self._joint_forward

    def _set_hookpoints(self, config: PairConfig) -> None:
        """Set the hookpoints of `config`, and probe their widths."""
        self.config, self.hookpoints = config, config.hookpoints
        self._identity: dict[str, Any] | None = None
        self._from_hookpoint: dict[int, ForwardFromHookpoint] = {}
        self._modules = tuple(map(self._find_module, range(len(self.models))))
        self.d_models: tuple[int, ...] = tuple(map(self._probe, range(len(self.models))))

    @cached_property
    def _joint_forward(self) -> JointForward:
        return JointForward(
            self._read, self.models, self.hookpoints, self.device, self.context, self._same_as()
        )

    @property
    def identical(self) -> bool:
        """Whether both models are the same computation, as in the identity control."""
        return self._same_as()[1] == 0

    @property
    def max_positions(self) -> int | None:
        """Longest document, in tokens, that all models can read; None if no configuration gives a limit."""
        limits = [
            getattr(text_settings(model), name, None)
            for model in self.models
            for name in ("max_position_embeddings", "max_seq_len")
        ]
        longest = min((limit for limit in limits if isinstance(limit, int)), default=None)
        return longest if longest is None or self.context is None else max(0, longest - len(self.context))

    def identity(self) -> dict[str, Any]:
        """Return what determines the activations, as JSON: names, revisions, and digests of weights, tokenizer and template."""
        if self._identity is None:
            context = None if self.context is None else identify_context(self.context, self.tokenizer)
            self._identity = {
                **identify_models(self.config, self.networks, self.d_models, context),
                **identify_texts(self.tokenizer, self.chat_template, self.readers),
            }
        return self._identity

    def activations(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        n_prefix: int = 0,
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """Return each model's activations at its hookpoint, reference first: `[document, token, d_model]`.

        Documents are right-padded. Each pass stops at its hookpoint: later layers and the head are not run. Initial
        layers that are identical in both models are run once; the result is bitwise the same.

        Args:
            n_prefix: Length of a prefix common to all documents, shorter than every document. It is run once, which
                changes the result only by rounding; models that cannot continue from a cache run it in every document.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        with self.networks.lock:
            return self._joint_forward(ids, mask, n_prefix)

    def activations_of(
        self,
        model: int,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
    ) -> Float[Tensor, "document token d_model"]:
        """Return one model's activations at its hookpoint, for token ids of that model's tokenizer."""
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        return self._read(model, ids, mask)

    def outputs(
        self,
        hookpoints: Sequence[str],
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        model: int,
    ) -> list[Float[Tensor, "document token _"]]:
        """Return one model's outputs at several hookpoints, in execution order, from a single pass.

        Raises:
            PairError: One of the modules is never run.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        context = self.context if model == 1 else None
        if context is not None:
            ids, mask = context.prepend(ids, mask)
        with self.switched(model) as network:
            found = read_outputs(network, [network.get_submodule(path) for path in hookpoints], ids, mask)
        if len(found) < len(hookpoints):
            raise PairError(
                f"pair: {len(hookpoints) - len(found)} of the modules {hookpoints[0]} to {hookpoints[-1]} of the {self.model_names[model]} "
                "model are never run; give a hookpoint among the layers that are run"
            )
        found = [output.to(self.device) for output in found]
        return found if context is None else [context.strip(output) for output in found]

    def tokenizer_of(self, model: int) -> PreTrainedTokenizerBase:
        """Return the tokenizer of one model."""
        return self.tokenizer if self.readers is None or model > 1 else self.readers[model].tokenizer

    def logits(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        splice: Splice | None,
        model: int,
        at: Bool[Tensor, "document token"] | None = None,
    ) -> Float[Tensor, "*place vocabulary"]:
        """Return logits of model 0 (reference) or 1 (intervened), with its activations replaced by `splice(activations)`.

        Args:
            at: Tokens to compute logits for, returned as `[place, vocabulary]` in their order; None: all tokens, as
                `[document, token, vocabulary]`.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        context, everywhere = self.context if model == 1 else None, at is None
        if context is not None:
            at = context.document_mask(torch.ones_like(mask) if at is None else at.to(self.device))
            ids, mask = context.prepend(ids, mask)
            splice = None if splice is None else context.splice_documents(splice)
        with self.switched(model) as network:
            if splice is None:
                found = forward(network, ids, mask, at=at).logits
            else:
                found = splice_output(network, self._modules[model], splice, ids, mask, at=at)
        return found.view(*token_ids.shape, -1) if everywhere else found

    def logits_from_hookpoint(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        activations: Float[Tensor, "document token d_model"],
        model: int,
        *,
        gradients: bool = False,
        at: Bool[Tensor, "document token"] | None = None,
    ) -> Float[Tensor, "*place vocabulary"]:
        """Run one model forward from its hookpoint and return its logits.

        Args:
            activations: Output of the hookpoint: the model's own, or, for activation patching, the other model's.
            gradients: Whether gradients flow from the logits back to `activations`.
            at: Tokens to compute logits for, returned as `[place, vocabulary]` in their order; None: all tokens, as
                `[document, token, vocabulary]`.
        """
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        with self.switched(model):
            return self.forward_from_hookpoint(model)(ids, mask, activations, gradients=gradients, at=at)

    def forward_from_hookpoint(self, model: int) -> ForwardFromHookpoint:
        """Return the rest of one model above its hookpoint; use it inside `switched`."""
        with self.switched(model) as network:
            if model not in self._from_hookpoint:
                self._from_hookpoint[model] = ForwardFromHookpoint(
                    network,
                    self._modules[model],
                    self.hookpoints[model],
                    self.device,
                    self.context if model == 1 else None,
                )
            return self._from_hookpoint[model]

    def with_hookpoint(self, hookpoint: str, intervened_hookpoint: str | None = None) -> "ModelPair":
        """Return the same models with other hookpoints. They share hooks, so use only one of the two pairs at a time.

        Raises:
            PairError: A hookpoint does not exist.
        """
        twin = copy.copy(self)
        vars(twin).pop("_joint_forward", None)  # recreated on first use
        twin._set_hookpoints(
            self.config.model_copy(
                update={"hookpoint": hookpoint, "intervened_hookpoint": intervened_hookpoint}
            )
        )
        return twin

    def module(self, model: int) -> nn.Module:
        """Return the module at the hookpoint of one model."""
        return self._modules[model]

    def direction_logits(
        self, directions: Float[Tensor, "latent d_model"], model: int
    ) -> Float[Tensor, "latent vocabulary"]:
        """Return the logit lens: directions through the final norm and the unembedding of one model, in float32.

        Raises:
            PairError: The model has no final norm before its unembedding.
        """
        with self.switched(model) as network:
            return direction_logits(network, self.final_norm(model), directions.to(self.device))

    def token_cosines(
        self,
        directions: Float[Tensor, "latent d_model"],
        logits: Float[Tensor, "latent vocabulary"],
        token_ids: Int[Tensor, "latent rank"],
        model: int,
    ) -> Float[Tensor, "latent rank"]:
        """Return the cosines of directions, after the final norm, with the centered rows of some tokens in the unembedding of one model.

        Args:
            logits: `direction_logits` of these directions.

        Raises:
            PairError: The model has no final norm before its unembedding.
        """
        with self.switched(model) as network:
            if model not in self._token_rows:
                self._token_rows[model] = token_rows(network, directions.shape[1])
            norm = self.final_norm(model)
            return token_cosines(self._token_rows[model], norm, directions.to(self.device), logits, token_ids)

    def final_norm(self, model: int) -> nn.Module:
        """Return the norm whose output the unembedding of one model reads.

        Raises:
            PairError: The model has no such norm.
        """
        if model not in self._final_norms:
            found = find_final_norm(self.models[model], self.device)
            if found is None:
                raise PairError(
                    f"pair.{self.model_names[model]}: {self.config.checkpoints[model].model!r} has no norm right before its unembedding, "
                    "which the logit lens needs; give a model with a final norm"
                )
            self._final_norms[model] = found
        return self._final_norms[model]

    def layer(self, model: int) -> int | None:
        """Return the index of the decoder layer at the hookpoint; None if the hookpoint is another module."""
        stack = find_stack(self.models[model], self.hookpoints[model])
        if stack is None or self.hookpoints[model] != f"{stack.path}.{stack.n_below - 1}":
            return None
        return stack.n_below - 1

    def full_pass(
        self,
        token_ids: Int[Tensor, "document token"],
        attention_mask: Bool[Tensor, "document token"],
        model: int,
    ) -> FullPass:
        """Run a full pass of one model, with hooks on its decoder layers, to check `activations` and for the survey."""
        ids, mask = token_ids.to(self.device), attention_mask.to(self.device, torch.bool)
        context = self.context if model == 1 else None
        if context is not None:
            ids, mask = context.prepend(ids, mask)
        found = find_decoder_layers(self.models[model])
        with self.switched(model) as network, ExitStack() as recording:
            layers = None if found is None else network.get_submodule(found[0])
            record = None if layers is None else recording.enter_context(recorded_layers(layers))
            logits = forward(network, ids, mask).logits
        states = None if record is None else tuple(state.to(self.device) for state in record.states())
        if context is None:
            return FullPass(logits, states)
        return FullPass(context.strip(logits), None if states is None else tuple(map(context.strip, states)))

    def switched(self, model: int) -> AbstractContextManager[Any]:
        """Switch to the adapter of one model and yield the plain transformers model; see `Networks.switched`."""
        return self.networks.switched(model)

    def _find_module(self, model: int) -> nn.Module:
        separate = model == 1 and self.config.intervened_hookpoint
        setting = "pair.intervened_hookpoint" if separate else "pair.hookpoint"
        name = self.config.checkpoints[model].model
        return find_module(setting, self.models[model], self.hookpoints[model], name)

    def _same_as(self) -> tuple[int, ...]:
        """Return, for each model, the index of the first model with the same computation."""
        first: dict[tuple[int, str | None, int, bool], int] = {}
        return tuple(
            first.setdefault((id(network), name, id(module), self.context is not None and index == 1), index)
            for index, (network, name, module) in enumerate(
                zip(self.models, self.networks.adapter_names, self._modules, strict=True)
            )
        )

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
            found = "it is never run" if output is None else f"its output has shape {tuple(output.shape)}"
            raise PairError(
                f"pair.hookpoint: {self.hookpoints[index]!r} of {self.config.checkpoints[index].model!r} does not return activations "
                f"[document, token, d_model]: {found}; give the path of a layer, e.g. model.layers.15"
            )
        return output.to(self.device)

    def _probe(self, index: int) -> int:
        """Return the width at the hookpoint, from a pass over one short document."""
        ids = torch.zeros(1, 3, dtype=torch.long, device=self.device)
        return self._read(index, ids, torch.ones_like(ids, dtype=torch.bool)).shape[-1]


def load_pair(
    config: PairConfig, *, middle_if_open: bool = False, texts: TextInputs | None = None
) -> ModelPair:
    """Load all models and check that they can be compared.

    Adapters share one set of base weights, where that is proven to change nothing. A model compared with itself, or read with and without a context, is loaded once.
    The chat template is the intervened model's, or the reference's if it has none.

    Args:
        middle_if_open: Read the middle decoder layer if the settings leave the hookpoint open.
        texts: Tokenizers, chat template and context, if they are loaded already.

    Raises:
        PairError: A model or the hookpoint is missing, the tokenizers differ, or an adapter does not fit.
        FormatError: A weight file is damaged.
        ResourceError: A package that a model needs is not installed, or memory is short.
        ConfigError: The device is not available, or the hookpoint is open and `middle_if_open` is false.
    """
    if not middle_if_open:
        _ = config.hookpoints
    device = resolve_device("pair.device", config.device)
    networks = load_networks(config := settle_dtypes(config), device)
    config = with_module_paths(config, networks)
    texts = texts or load_text_inputs(config)
    if config.hookpoint is None:
        config = config.model_copy(update={"hookpoint": middle_layer(networks.models)})
    return ModelPair(
        config, networks, texts.tokenizer, texts.chat_template, device, texts.context, texts.readers
    )
