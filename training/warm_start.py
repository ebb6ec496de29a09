"""Warm start: training that begins from a finished dictionary (`training.start_from`), for the next stage of a model or for more
models.

A dictionary of fewer models is extended: each new model on the axis begins as a copy of the reference. It takes over the decoder
rows, bias and normalization of the reference. The encoder rows of the reference are divided equally among the reference and the
new models, so that tokens on which these agree keep their latent activations.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import split_models
from crosscoder.config import CrosscoderConfig
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.errors import ConfigError

_SETTING = "training.start_from"
_EQUAL_SCORES = 1e-3
"""Largest relative difference between stored score weights and decoder norms that counts as equal."""


def starting_point(source: DictionarySource, shape: CrosscoderConfig) -> tuple[Crosscoder, dict[str, Any]]:
    """Load a dictionary and extend it to the models of `shape`; return it, and the record of where it comes from.

    Raises:
        ConfigError: It differs in shape by more than missing models, or its files leave something open that was not given.
        FormatError: There is no dictionary, a damaged one, or one that is not representable.
    """
    imported = import_dictionary(source)
    found = _competing_by_norms(source.source, imported.crosscoder)
    _require_fit(source.source, found.config, shape)
    n_new = len(shape.d_models) - len(found.config.d_models)
    return _extended(found, shape, n_new) if n_new else found, imported.origin


def _competing_by_norms(source: str, found: Crosscoder) -> Crosscoder:
    """Return the dictionary with scores by decoder norms, as a training computes them.

    Raises:
        ConfigError: It stores other scores. Proportional ones select the same latents, except by a threshold, which a training
            calibrates anew.
    """
    if found.config.scores == "decoder_norms":
        return found
    by_norms = Crosscoder(found.config.model_copy(update={"scores": "decoder_norms"}))
    state = {name: value for name, value in found.state_dict().items() if name != "score_weight"}
    by_norms.load_state_dict(state)
    ratio = found.score_weight / by_norms.score_norms().detach()
    if not bool((ratio / ratio.mean() - 1).abs().max() <= _EQUAL_SCORES):
        raise ConfigError(
            f"{_SETTING}: in {source}, latents compete by stored weights that differ from their decoder norms, by which a training lets "
            "them compete; give a dictionary whose decoder rows have equal norms, or one that was trained with crosscoder norms"
        )
    return by_norms


def _require_fit(folder: str, found: CrosscoderConfig, shape: CrosscoderConfig) -> None:
    compared = {
        "crosscoder.n_latents": (found.n_latents, shape.n_latents),
        "crosscoder.sparsity.kind": (found.sparsity.kind, shape.sparsity.kind),
        "exclusive latents": (found.n_exclusive, shape.n_exclusive),
        "tied latents": (found.n_tied, shape.n_tied),
    }
    for name, (stored, wanted) in compared.items():
        if stored != wanted:
            raise ConfigError(
                f"{_SETTING}: {folder} has {name} {stored}, but this run has {wanted}; give a dictionary with the shape of this run"
            )
    n_known = len(found.d_models)
    beginning = shape.d_models[:n_known], shape.model_names[:n_known]
    # A shared-dictionary SAE reads each model alone, so it can serve as the reference's dictionary.
    names = shape.model_names[:1] if found.model_names == ("pooled",) else found.model_names
    if beginning != (found.d_models, names):
        raise ConfigError(
            f"{_SETTING}: {folder} reads {_axis(found)}, but this run reads {_axis(shape)}; the first models of this run must be those "
            "of the dictionary"
        )
    new = shape.d_models[n_known:]
    if any(d_model != shape.d_models[0] for d_model in new):
        raise ConfigError(
            f"{_SETTING}: {folder} reads {_axis(found)}, but this run reads {_axis(shape)}; the additional models must be as wide as "
            "the reference"
        )
    if new and found.n_exclusive:
        raise ConfigError(
            f"{_SETTING}: {folder} has exclusive latents, so it cannot be extended to {len(shape.d_models)} models; "
            "give a dictionary without exclusive latents"
        )


def _axis(config: CrosscoderConfig) -> str:
    return ", ".join(
        f"{name} {d_model} wide" for name, d_model in zip(config.model_names, config.d_models, strict=True)
    )


@torch.no_grad()
def _extended(found: Crosscoder, shape: CrosscoderConfig, n_new: int) -> Crosscoder:
    """Add `n_new` models to a dictionary, each a copy of the reference and of its width."""
    d_models = found.config.d_models

    def repeated(values: Float[Tensor, "row _"]) -> Float[Tensor, "row _"]:
        return torch.cat([values, *[split_models(values, d_models)[0]] * n_new], dim=1)

    encoder = found.W_enc.T.clone()
    encoder[:, : d_models[0]] /= 1 + n_new
    extended = Crosscoder(shape)
    state = found.state_dict()
    scales = {
        name: torch.cat([state[name], state[name][:1].expand(n_new)]) for name in ("scale", "score_scale")
    }
    rows = {name: repeated(state[name][None])[0] for name in ("mean", "b_dec")}
    extended.load_state_dict(
        state | scales | rows | {"W_dec": repeated(state["W_dec"]), "W_enc": repeated(encoder).T}
    )
    return extended
