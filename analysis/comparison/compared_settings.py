"""Settings of several runs: a row for each that differs, and a line with what is equal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from crosscoder.config import RunConfig
from crosscoder.config.introspection import leaves
from crosscoder.run.settings_record import RESULT_NEUTRAL_SETTINGS

from ..report.content import short_names
from ..report.wording import Sentence, listed, named, say
from .compared_runs import ComparedRun
from .comparison_schema import Cell, Row

_REFERENCE, _INTERVENED, _TEXT = "reference model", "intervened model", "digest of the text"

_LEFT_OUT = (
    *RESULT_NEUTRAL_SETTINGS, "behaviors", "pair.reference", "pair.intervened", "pair.device", "training.device", "training.evaluate_every",
    "training.checkpoint_every", "controls.workers", "discovery.minutes",
)  # fmt: skip
"""Settings that change no result, and those that other rows compare: models by their digests, behaviors by name."""

_NAMED = (
    _REFERENCE, _INTERVENED, _TEXT, "pair.hookpoint", "crosscoder.reads", "crosscoder.n_latents", "crosscoder.sparsity.kind",
    "crosscoder.sparsity.k", "training.n_tokens", "seed",
)  # fmt: skip
"""What is named, and not only counted, where it is equal; these rows come first where they differ."""

_DIGEST = 8
_SECTIONS = tuple(RunConfig.model_fields)


class _Value(NamedTuple):
    identity: Any
    """Equal in two runs if the setting is."""
    shown: Sentence


def compare_settings(runs: Sequence[ComparedRun]) -> tuple[Sentence, tuple[Row, ...]]:
    """Return what is equal in all runs, and a row for each setting that differs; settings that cannot be read differ from nothing."""
    values = [_values(run) for run in runs]
    names = sorted({name for known in values if known is not None for name in known}, key=_order)
    differing, equal = [], {}
    for name in names:
        found = [known.get(name) for known in values if known is not None]
        if len({_key(value) for value in found}) > 1:
            differing.append(Row(name=name, meaning="", cells=tuple(map(_cells(name), runs, values))))
        elif found[0] is not None:
            equal[name] = found[0].shown
    return _equal(equal), tuple(differing)


def _values(run: ComparedRun) -> dict[str, _Value] | None:
    """Return all settings of a run by name; None if they cannot be read."""
    if run.config is None:
        return None
    found = dict(_identities(run))
    settings = run.config.model_dump(mode="json")
    for source in (settings["text"] or {}).get("sources", ()):
        if _TEXT in found:
            del source["path"]  # The digest identifies the text wherever its file lies.
    for place, value in leaves(_joined(settings)):
        name = ".".join(place)
        # A setting that is null is as good as unset: it takes no effect.
        if value is not None and not any(name == one or name.startswith(f"{one}.") for one in _LEFT_OUT):
            found[name] = _Value(value, _shown(value))
    return found


def _joined(settings: Any) -> Any:
    """Return the settings with each list as one text, so that lists of different lengths differ in one setting."""
    if isinstance(settings, dict):
        return {name: _joined(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return ", ".join(
            " ".join(str(value) for _, value in leaves(entry) if value is not None) for entry in settings
        )
    return settings


def _identities(run: ComparedRun) -> Iterator[tuple[str, _Value]]:
    """Yield the models and the text, identified by their digests as far as the manifest records them."""
    fingerprint = (run.manifest.get("data") or {}).get("fingerprint")
    if fingerprint:
        yield _TEXT, _Value(fingerprint, say("{digest}", digest=named(fingerprint[:_DIGEST])))
    if not run.pair:
        if run.config is not None and run.config.pair is not None:
            for name, side in (
                (_REFERENCE, run.config.pair.reference),
                (_INTERVENED, run.config.pair.intervened),
            ):
                text = ", ".join(
                    f"{key} {value}" for key, value in side.model_dump(mode="json", exclude_none=True).items()
                )
                yield name, _Value(text, say("{model}", model=named(text)))
        return
    for name, side, short in zip(
        (_REFERENCE, _INTERVENED), ("reference", "intervened"), short_names({"models": run.pair}), strict=True
    ):
        identity = model_identity(run.pair.get(side) or {})
        digests = " ".join(part[:_DIGEST] for part in identity if part)
        yield name, _Value(identity, say("{model} ({digests})", model=named(short), digests=named(digests)))


def model_identity(side: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return the digests of the weights, the adapter and the context of a model, as a manifest records them."""
    return tuple(side.get(key) for key in ("weights", "adapter_weights", "context_digest"))


def _order(name: str) -> tuple[int, int, str]:
    """Sort what is most important first, then by section of the settings; the same for every order of the runs."""
    if name in _NAMED:
        return 0, _NAMED.index(name), name
    return 1, _SECTIONS.index(name.partition(".")[0]), name


def _key(value: _Value | None) -> str | None:
    return None if value is None else repr(value.identity)


def _cells(name: str) -> Any:
    def cell(run: ComparedRun, known: Mapping[str, _Value] | None) -> Cell:
        if known is None:
            problem = run.problems["settings"]
            return Cell(state=problem.state, shown=problem.short)
        value = known.get(name)
        if value is None:
            return Cell(state="missing", shown=say("unset"))
        return Cell(state="stated", shown=value.shown)

    return cell


def _shown(value: Any) -> Sentence:
    if isinstance(value, int) and not isinstance(value, bool):
        return say("{value:,}", value=value)
    if isinstance(value, float):
        return say("{value:.12g}", value=value)
    if isinstance(value, str) and value:
        return say("{value}", value=named(value))
    return say("true" if value is True else "false" if value is False else "none")


def _equal(equal: Mapping[str, Sentence]) -> Sentence:
    shown = [
        (name, say("{name} {value}", name=named(name), value=equal[name])) for name in _NAMED if name in equal
    ]
    others = len(equal) - len(shown)
    if not equal:
        return say("Equal in all runs: no setting.")
    if not shown:
        return say(
            "Equal in all runs: {others:counted setting}, none of the most important ones.", others=others
        )
    return say(
        "Equal in all runs: {equal}; and {others:counted other setting}.", equal=listed(shown), others=others
    )
