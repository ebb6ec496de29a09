"""How much the counts of labels depend on each limit of the rule, as curves with a sentence each."""

from collections.abc import Sequence
from html import escape
from typing import Any

from .phrases import Number
from .schema import LimitCurve
from .wording import listed, say

_MEANINGS = {
    "weak_norm": "weaker decoder norm as a share of the stronger",
    "nu_error": "upper bound of ν error",
    "nu_reconstruction": "upper bound of ν reconstruction",
    "false_discovery_rate": "q-value",
}

# Counts that differ by at most a tenth, or by one latent, are treated as the same.
_SAME = 0.1

WIDTH, HEIGHT = 240, 48


def limit_curves(limits: list[dict[str, Any]]) -> tuple[LimitCurve, ...]:
    """Return the curves of summary.json, each with a sentence that describes it."""
    return tuple(_curve(entry) for entry in limits)


def drawing(curve: LimitCurve) -> str:
    """Return the curve as SVG markup for the report and the page, which color its classes."""
    margin = 4
    size = f'width="{WIDTH + margin}" height="{HEIGHT + 2 * margin}"'
    box = f'viewBox="{-margin // 2} {-margin} {WIDTH + margin} {HEIGHT + 2 * margin}"'
    total = _total(curve.new, curve.lost)
    highest = float(max([1.0, *total, *(curve.expected_false or ())]))
    mark = round(WIDTH * (curve.configured - curve.values[0]) / (curve.values[-1] - curve.values[0]), 1)
    lines = [
        f'<line class="axis" x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>',
        f'<line class="mark" x1="{mark}" y1="-2" x2="{mark}" y2="{HEIGHT + 2}"/>',
    ]
    if curve.expected_false is not None:
        lines.append(
            f'<polyline class="expected" points="{_points(curve.values, curve.expected_false, highest)}"/>'
        )
    lines.append(f'<polyline class="curve" points="{_points(curve.values, total, highest)}"/>')
    return f'<svg {box} {size} role="img" aria-label="{escape(curve.text.text)}">{"".join(lines)}</svg>'


def _curve(entry: dict[str, Any]) -> LimitCurve:
    values, total = entry["values"], _total(entry["new"], entry["lost"])
    false = entry["expected_false"]
    at = min(range(len(values)), key=lambda index: abs(values[index] - entry["configured"]))
    low, high = same_around(total, at)
    least, most = min(total[low : high + 1]), max(total[low : high + 1])
    beyond = [
        (end, say("{count} for a limit of {value:.2g}", count=total[edge], value=values[edge]))
        for end, edge in (("start", 0), ("end", len(values) - 1))
        if not low <= edge <= high
    ]
    return LimitCurve(
        limit=entry["limit"],
        meaning=_MEANINGS[entry["limit"]],
        configured=entry["configured"],
        values=tuple(values),
        new=tuple(entry["new"]),
        lost=tuple(entry["lost"]),
        expected_false=None if false is None else tuple(false),
        text=say(
            "the number of new and lost latents stays {count} for a limit from {low:.2g} to {high:.2g}{beyond}",
            count=say("{most}", most=most)
            if least == most
            else say("between {least} and {most}", least=least, most=most),
            low=values[low],
            high=values[high],
            beyond=say("; it is {ends}", ends=listed(beyond, " and ")) if beyond else "",
        ),
    )


def _total(new: Sequence[int], lost: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(new, lost, strict=True)]


def same_around(counts: list[int], at: int) -> tuple[int, int]:
    """Return the first and last index around `at` up to which the count stays the same."""
    allowed = max(1.0, _SAME * counts[at])
    low = high = at
    while low > 0 and abs(counts[low - 1] - counts[at]) <= allowed:
        low -= 1
    while high < len(counts) - 1 and abs(counts[high + 1] - counts[at]) <= allowed:
        high += 1
    return low, high


def _points(values: Sequence[float], counts: Sequence[Number], highest: float) -> str:
    """Return the points of the curve for an SVG polyline."""
    span = values[-1] - values[0]
    return " ".join(
        f"{WIDTH * (value - values[0]) / span:.1f},{HEIGHT * (1 - count / highest):.1f}"
        for value, count in zip(values, counts, strict=True)
    )
