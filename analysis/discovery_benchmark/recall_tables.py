"""Results of the benchmark as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from .baselines import BASELINES, N_PROPOSALS
from .finding_scores import FIRST

Result = Mapping[str, Any]

_HARD = ("trigger", "rare")


def markdown(results: Sequence[Result]) -> str:
    """Return what was recalled, and two tables: pairs with a hidden behavior, and pairs without."""
    planted = [one for one in results if one["behaviors"]]
    empty = [one for one in results if not one["behaviors"]]
    parts = [*_summary(planted, empty)]
    if planted:
        parts.append(_planted_table(planted))
    if empty:
        parts += [_empty_table(empty), _curve(empty)]
    return "\n\n".join(parts) + "\n"


def _summary(planted: Sequence[Result], empty: Sequence[Result]) -> Iterator[str]:
    valid = [one for one in planted if one["valid"]]
    groups = {
        "all": valid,
        "without rare ones and backdoors": [one for one in valid if one["kind"] not in _HARD],
        "kept out of tuning": [one for one in valid if not one["tuning"]],
    }
    rows = [
        [
            name,
            *(_recall(group, what) for what in ("effect", "effect and trigger")),
            *_baseline_recalls(group),
        ]
        for name, group in groups.items()
        if group
    ]
    if rows:
        header = ["behaviors", "effect", "effect and trigger", *BASELINES]
        yield f"Recall in the first {FIRST} findings, or proposals of a baseline:\n\n" + _table(header, rows)
    if empty:
        found = sum(len(one["findings"]) for one in empty)
        yield f"Findings on the {len(empty)} pairs without a behavior: {found}. A baseline proposes {N_PROPOSALS} on each."


def _recall(results: Sequence[Result], what: str) -> str:
    ranks = [ranks[what] for one in results for ranks in one["behaviors"].values()]
    return _share(sum(rank is not None and rank <= FIRST for rank in ranks), len(ranks))


def _baseline_recalls(results: Sequence[Result]) -> list[str]:
    """A baseline's proposals tell no trigger, so that two behaviors of one model are not told apart."""
    return [
        _share(sum(one["baselines"][name] is not None for one in results), len(results)) for name in BASELINES
    ]


def _share(count: int, n: int) -> str:
    low, high = binomtest(count, n).proportion_ci(method="wilson")
    return f"{count} of {n} ({low:.2f} to {high:.2f})"


def _planted_table(results: Sequence[Result]) -> str:
    rows = [
        [
            one["name"] + (f", {part}" if part else "") + ("" if one["valid"] else " (not valid)"),
            one["kind"],
            "yes" if one["tuning"] else "no",
            str(one["prompts_that_show_it"]),
            _place(ranks["effect"]),
            _place(ranks["effect and trigger"]),
            _first_finding(one, part),
            *(_place(one["baselines"][name]) for name in BASELINES),
            str(len(one["findings"])),
            f"{(one['seconds'] + one['reference_seconds']) / 60:.1f}",
        ]
        for one in results
        for part, ranks in one["behaviors"].items()
    ]
    header = ["behavior", "kind", "tuning", "prompts that show it", "effect", "effect and trigger", "finding", *BASELINES, "findings",
              "core minutes"]  # fmt: skip
    return _table(header, rows)


def _first_finding(result: Result, part: str) -> str:
    """Return what the finding that tells the effect says: the words, when, and the area under the curve of its trigger."""
    rank = result["behaviors"][part]["effect"]
    if rank is None:
        return "–"
    finding = result["findings"][rank - 1]
    when = {
        "always": "always",
        "all_words": " and ".join(f"“{word}”" for word in finding["words"]),
        "words": " or ".join(f"“{word}”" for word in finding["words"]),
        "topic": "a topic",
    }
    sign = "" if finding["direction"] == "gained" else "no longer "
    return f"{sign}“{_escaped(finding['effect'])}”, {_escaped(when[finding['trigger']])} ({finding['areas'][part]:.2f})"


def _empty_table(results: Sequence[Result]) -> str:
    rows = [
        [
            one["name"],
            "yes" if one["tuning"] else "no",
            str(one["hypotheses"]),
            str(len(one["findings"])),
            "; ".join(f"“{_escaped(finding['effect'])}”" for finding in one["findings"]) or "–",
        ]
        for one in results
    ]
    return _table(["pair without a behavior", "tuning", "hypotheses", "findings", "what they say"], rows)


def _curve(empty: Sequence[Result]) -> str:
    """Return the findings on pairs without a behavior by the number of prompts."""
    sizes = sorted({size for one in empty for size in one["findings_by_prompts"]}, key=int)
    rows = [
        [size, str(sum(one["findings_by_prompts"][size] for one in having)), str(len(having))]
        for size in sizes
        if (having := [one for one in empty if size in one["findings_by_prompts"]])
    ]
    return "Without asking anything again:\n\n" + _table(
        ["prompts", "findings", "pairs without a behavior"], rows
    )


def _place(rank: int | None) -> str:
    return "–" if rank is None else str(rank)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
