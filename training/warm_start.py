"""A finished dictionary that another training begins from (`training.start_from`): the next stage of a model, or more models.

A dictionary of fewer models is extended: each new model on the axis begins as the reference. Its decoder rows, bias and
normalization are the reference's, and the reference's encoder rows are divided among it and the new ones, so that tokens on which
they agree with the reference have the code that they had.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import split_models
from crosscoder.config import CrosscoderConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError

_SETTING = "training.start_from"


def starting_point(folder: Path, shape: CrosscoderConfig) -> Crosscoder:
    """The dictionary in `folder`, as one of the given shape.

    Raises:
        ConfigError: It is of another shape, and not of fewer models.
        FormatError: The folder holds no dictionary, or a damaged one.
    """
    found = load_crosscoder(folder.expanduser())
    _require_fit(folder, found.config, shape)
    n_new = len(shape.d_models) - len(found.config.d_models)
    return _extended(found, shape, n_new) if n_new else found


def _require_fit(folder: Path, found: CrosscoderConfig, shape: CrosscoderConfig) -> None:
    asked = {
        "crosscoder.n_latents": (found.n_latents, shape.n_latents),
        "crosscoder.sparsity.kind": (found.sparsity.kind, shape.sparsity.kind),
        "latents of one model alone": (found.n_exclusive, shape.n_exclusive),
        "tied latents": (found.n_tied, shape.n_tied),
    }
    for name, (there, here) in asked.items():
        if there != here:
            raise ConfigError(
                f"{_SETTING}: {folder} has {name} {there}, this run {here}; give a dictionary of this run's shape"
            )
    n_known = len(found.d_models)
    beginning = shape.d_models[:n_known], shape.model_names[:n_known]
    # A shared-dictionary SAE reads each model alone, so it can begin as the reference's.
    names = shape.model_names[:1] if found.model_names == ("pooled",) else found.model_names
    if beginning != (found.d_models, names):
        raise ConfigError(
            f"{_SETTING}: {folder} reads {_axis(found)}, this run {_axis(shape)}; the models of the dictionary must be the first ones"
        )
    new = shape.d_models[n_known:]
    if any(d_model != shape.d_models[0] for d_model in new):
        raise ConfigError(
            f"{_SETTING}: {folder} reads {_axis(found)}, this run {_axis(shape)}; further models must be as wide as the reference"
        )
    if new and found.n_exclusive:
        raise ConfigError(
            f"{_SETTING}: {folder} has latents of one model alone, so it cannot be extended to {len(shape.d_models)} models; "
            "give one without"
        )


def _axis(config: CrosscoderConfig) -> str:
    return ", ".join(
        f"{name} {d_model} wide" for name, d_model in zip(config.model_names, config.d_models, strict=True)
    )


@torch.no_grad()
def _extended(found: Crosscoder, shape: CrosscoderConfig, n_new: int) -> Crosscoder:
    """The dictionary with `n_new` more models, all of the reference's width."""
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
