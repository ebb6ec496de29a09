"""Runs that share results, so that what they agree on is not found twice: a copy of a run, or one search with the same draws."""

from collections.abc import Callable, Hashable, Iterator, Sequence

from crosscoder.dictionary.storage import read_record
from crosscoder.errors import CrosscoderError

from ..report.wording import Sentence, listed, named, say
from .compared_runs import ComparedRun


def shared_results(runs: Sequence[ComparedRun]) -> Iterator[Sentence]:
    """Yield which runs have the same dictionary, and which have the same answers."""
    for what, key in (("dictionary", _dictionary), ("answers", _answers)):
        for members in _alike(runs, key):
            yield say(
                "{runs} have the same {what}, so what they agree on there is found once, not several times.",
                runs=listed(
                    ((f"run_{at}", say("{run}", run=named(run.name))) for at, run in enumerate(members)), ", "
                ),
                what=what,
            )


def _alike(
    runs: Sequence[ComparedRun], key: Callable[[ComparedRun], Hashable]
) -> Iterator[list[ComparedRun]]:
    groups: dict[Hashable, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return (members for value, members in groups.items() if value and len(members) > 1)


def _dictionary(run: ComparedRun) -> str | None:
    """Return the digest of the weights; None if there are none. A record that cannot be read is told where latents are compared."""
    if not run.folder.crosscoder.is_dir():
        return None
    try:
        return read_record(run.folder.crosscoder)["digest"]
    except CrosscoderError:
        return None


def _answers(run: ComparedRun) -> Hashable:
    return frozenset(run.answers)
