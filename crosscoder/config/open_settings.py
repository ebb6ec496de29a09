"""Open settings: those that may be null, which a run then chooses: the dtypes of the models when its folder is made, by the hardware, the
hookpoint before the harvest, by what `discover` found, and all others before training, by `training.recipe`.

The settings of a run are complete once these choices are in RUN/config.yaml. `chosen` reads a setting that has to
be there; `with_choices` takes over the choices that a run made before.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from ..errors import ConfigError
from .dictionary import DictionaryConfig
from .introspection import Place
from .pair import PairConfig
from .run import RunConfig
from .sparsity import BatchTopK, TopK

Value = TypeVar("Value", int, float)

HOOKPOINT: Place = ("pair", "hookpoint")

OPEN_SETTINGS: tuple[Place, ...] = (
    HOOKPOINT,
    ("crosscoder", "n_latents"),
    ("crosscoder", "sparsity", "k"),
    ("training", "n_tokens"),
    ("training", "batch_tokens"),
    ("training", "lr"),
    ("training", "auxiliary", "k"),
    ("training", "auxiliary", "dead_after_tokens"),
)
"""Every setting that a run chooses by what it finds or by its data, in the order in which they are chosen."""


def chosen(value: Value | None, setting: str) -> Value:
    """Return the value of a setting that may be left open, where it has to be chosen.

    Raises:
        ConfigError: It is still open.
    """
    if value is None:
        raise ConfigError(
            f"{setting}: left open (null) and not chosen yet; train the run first, or give a number"
        )
    return value


def open_settings(config: RunConfig) -> tuple[str, ...]:
    """Return the dotted names of the settings that are still open."""
    return tuple(
        ".".join(place) for place in OPEN_SETTINGS if _has(config, place) and _at(config, place) is None
    )


def with_choices(config: RunConfig, earlier: RunConfig, places: Sequence[Place] = OPEN_SETTINGS) -> RunConfig:
    """Return the settings with every open one among `places` taken from `earlier`, the settings of the same run as stored.

    The dtypes of models are taken over in any case. A k is taken over only for the same kind of sparsity. If both load the same dictionary, and nothing else of it is given, its shape is
    taken over.
    """
    loads = config.crosscoder.load
    if (
        loads is not None
        and config.crosscoder == DictionaryConfig(load=loads)
        and loads == earlier.crosscoder.load
    ):
        config = with_value(config, ("crosscoder",), earlier.crosscoder)
    if config.pair is not None and earlier.pair is not None and _same_sources(config.pair, earlier.pair):
        config = with_value(config, ("pair",), config.pair.with_dtypes(earlier.pair.dtypes))
    for place in places:
        if not (_has(config, place) and _has(earlier, place)):
            continue
        if place == ("crosscoder", "sparsity", "k") and not _same_sparsity(config, earlier):
            continue
        if _at(config, place) is None and (value := _at(earlier, place)) is not None:
            config = with_value(config, place, value)
    return config


def with_value(block: Any, place: Place, value: object) -> Any:
    """Return a copy of a block of settings with one setting, at `place` inside it, replaced. The caller vouches for the value."""
    name, *inside = place
    if inside:
        value = with_value(getattr(block, name), tuple(inside), value)
    return block.model_copy(update={name: value})


def _same_sources(pair: PairConfig, earlier: PairConfig) -> bool:
    return len(pair.sources) == len(earlier.sources)


def _same_sparsity(config: RunConfig, earlier: RunConfig) -> bool:
    return config.crosscoder.sparsity.kind == earlier.crosscoder.sparsity.kind


def _has(config: RunConfig, place: Place) -> bool:
    """Whether the setting exists: activations from files have no pair, ReLU and JumpReLU have no k."""
    if place == HOOKPOINT:
        return config.pair is not None
    return place != ("crosscoder", "sparsity", "k") or isinstance(
        config.crosscoder.sparsity, BatchTopK | TopK
    )


def _at(config: RunConfig, place: Place) -> Any:
    value: Any = config
    for name in place:
        value = getattr(value, name)
    return value
