"""The view: how a dictionary reads the activations of a pair.

paired      one row per token, both models and all snapshots concatenated: a crosscoder
pooled      two rows per token, the reference's and the intervened model's, encoded by one dictionary with a model axis
            of length 1: a shared-dictionary SAE
difference  one row per token, intervened - reference: a diff-SAE
"""

from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations.batch import have_difference, split_models
from ..config import CrosscoderConfig, DictionaryConfig
from ..config.model_names import model_names
from ..config.open_settings import chosen
from ..errors import ConfigError

View = Literal["paired", "pooled", "difference"]


def crosscoder_config(config: DictionaryConfig, d_models: tuple[int, ...]) -> CrosscoderConfig:
    """Return the config of a dictionary for models of these widths.

    Raises:
        ConfigError: The models' widths differ, but the view or tied latents require equal widths; or the number of latents is
            still open.
    """
    n_latents = chosen(config.n_latents, "crosscoder.n_latents")
    if config.tied and len(set(d_models)) > 1:
        raise ConfigError(
            f"crosscoder.tied: needs models of equal width, found widths {d_models}; set it to 0"
        )
    if config.reads == "paired":
        axis, names = d_models, model_names(len(d_models))
    else:
        if len(d_models) != 2 or not have_difference(d_models):
            raise ConfigError(
                f"crosscoder.reads: {config.reads!r} needs two models of equal width, found widths {d_models}; use 'paired'"
            )
        axis, names = d_models[:1], (config.reads,)
    return CrosscoderConfig(
        d_models=axis,
        model_names=names,
        n_latents=n_latents,
        sparsity=config.sparsity,
        n_exclusive=round(config.exclusive * n_latents),
        n_tied=round(config.tied * n_latents),
    )


def view_rows(
    values: Float[Tensor, "token width"], d_models: tuple[int, ...], reads: View
) -> Float[Tensor, "row _"]:
    """Return the rows that the dictionary encodes; for `pooled`, all rows of the reference come first."""
    match reads:
        case "paired":
            return values
        case "pooled":
            return torch.cat(split_models(values, d_models))
        case "difference":
            reference, intervened = split_models(values, d_models)[:2]
            return intervened.float() - reference.float()
        case _:
            assert_never(reads)
