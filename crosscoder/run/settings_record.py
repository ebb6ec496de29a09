"""Settings as manifest.json records them, and how those of a request or of an edited config.yaml differ
from them."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..config import DiscoveryConfig, RunConfig
from ..config.activations import STORE_PLACES
from ..config.discovery import ANSWER_SETTINGS
from ..config.introspection import Place, leaves
from ..config.messages import show
from ..config.open_settings import HOOKPOINT, with_choices, with_value
from ..errors import FormatError

RESULT_NEUTRAL_SETTINGS = (
    "output", "wandb", "threads", "training.log_every", "training.latent_shards", *STORE_PLACES,
)  # fmt: skip
"""Settings that change no result, or only its rounding."""

DICTIONARY_SETTINGS = ("crosscoder", "training")
"""Settings of the dictionary: no result depends on them until training starts, so they may change after a harvest or sweep."""

SETTINGS_OF_STAGE: dict[str, tuple[str, ...]] = {
    "analyze": ("analysis", "controls"),
    "discover": ("discovery",),
    "survey": ("survey",),
}
"""Sections of the settings that one stage uses, and that may change before it runs again."""


class Difference(NamedTuple):
    """A setting that differs, and both values as they are shown."""

    name: str
    stored: str
    asked: str


def analysis_settings(config: RunConfig, *, harvested: bool) -> tuple[str, ...]:
    """Settings of what follows the training: they change neither activations nor the dictionary's weights.

    Args:
        harvested: A harvest has begun. If answers joined its text, what decides them belongs to the text and is not among these settings.
    """
    joined = harvested and config.text is not None and config.text.answers
    discovery = [f"discovery.{name}" for name in DiscoveryConfig.model_fields if name not in ANSWER_SETTINGS]
    return "analysis", "behaviors", "controls", "survey", *(discovery if joined else ("discovery",))


def plain_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings as plain values, without the folder of the run, which may move."""
    return config.model_dump(mode="json", exclude={"output"})


def read_settings(recorded: dict[str, Any], path: Path, output: Path) -> RunConfig:
    """Return the settings that are recorded in the manifest at `path`, for the run folder `output`.

    Raises:
        FormatError: Another version of crosscoder recorded them.
    """
    try:
        return RunConfig.model_validate({**recorded, "output": output})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FormatError(
            f"{path}: its settings are those of another version ({place}: {first['msg']}); make the run again in another output"
        ) from None


def difference(stored: RunConfig, asked: RunConfig, may_differ: Sequence[str]) -> Difference | None:
    """Return the first setting that differs and is not in `may_differ`; what `asked` leaves open stands for what was chosen."""
    before = dict(leaves(stored.model_dump(mode="json")))
    after = dict(leaves(with_choices(asked, stored).model_dump(mode="json")))
    for place in dict.fromkeys((*after, *before)):
        if _listed(place, may_differ) or (
            place in before and place in after and before[place] == after[place]
        ):
            continue
        if place == HOOKPOINT and before.get(place) is None:
            # A search alone, without a dictionary, leaves it open.
            continue
        found, wanted = (show(values[place]) if place in values else "unset" for values in (before, after))
        return Difference(".".join(place), found, wanted)
    return None


def _listed(place: Place, names: Sequence[str]) -> bool:
    dotted = ".".join(place)
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def with_dtypes(config: RunConfig) -> RunConfig:
    """Return the settings with a dtype for every model. Raises ConfigError if the device of the pair is not available."""
    if config.pair is None:
        return config
    # It imports torch, which takes seconds; most verbs open a run without.
    settle = import_module("crosscoder.runtime.model_dtypes").settle_dtypes
    return with_value(config, ("pair",), settle(config.pair))
