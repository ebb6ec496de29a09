"""How much a count depends on the limits of the rule, and where in its curve each limit lies."""

from html import escape
from typing import Any

from .schema import LimitCurve

_MEANINGS = {
    "weak_norm": "weaker decoder norm as a share of the stronger",
    "nu_error": "upper bound of ν error",
    "nu_reconstruction": "upper bound of ν reconstruction",
    "false_discovery_rate": "q-value",
}

# A count that stays within a tenth, or one latent, is the same count.
_SAME = 0.1

WIDTH, HEIGHT = 240, 48


def limit_curves(limits: list[dict[str, Any]]) -> tuple[LimitCurve, ...]:
    """The curves of summary.json, each with what it says in a sentence."""
    return tuple(_curve(entry) for entry in limits)


def drawing(curve: LimitCurve) -> str:
    """The curve as SVG markup, for the report and for the page; the style of either colors it by class."""
    margin = 4
    size = f'width="{WIDTH + margin}" height="{HEIGHT + 2 * margin}"'
    box = f'viewBox="{-margin // 2} {-margin} {WIDTH + margin} {HEIGHT + 2 * margin}"'
    lines = [
        f'<line class="axis" x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>',
        f'<line class="mark" x1="{curve.mark}" y1="-2" x2="{curve.mark}" y2="{HEIGHT + 2}"/>',
    ]
    if curve.path_false:
        lines.append(f'<polyline class="expected" points="{curve.path_false}"/>')
    lines.append(f'<polyline class="curve" points="{curve.path}"/>')
    return f'<svg {box} {size} role="img" aria-label="{escape(curve.text)}">{"".join(lines)}</svg>'


def _curve(entry: dict[str, Any]) -> LimitCurve:
    values, total = entry["values"], [a + b for a, b in zip(entry["new"], entry["lost"], strict=True)]
    false = entry["expected_false"]
    at = min(range(len(values)), key=lambda index: abs(values[index] - entry["configured"]))
    low, high = same_around(total, at)
    least, most = min(total[low : high + 1]), max(total[low : high + 1])
    stays = f"{most}" if least == most else f"between {least} and {most}"
    beyond = [
        f"{total[edge]} at {values[edge]:.2g}" for edge in (0, len(values) - 1) if not low <= edge <= high
    ]
    text = f"new and lost latents stay {stays} from {values[low]:.2g} to {values[high]:.2g}"
    if beyond:
        text += f"; {' and '.join(beyond)}"
    highest = float(max([1.0, *total, *(false or ())]))
    return LimitCurve(
        limit=entry["limit"],
        meaning=_MEANINGS[entry["limit"]],
        configured=entry["configured"],
        values=tuple(values),
        new=tuple(entry["new"]),
        lost=tuple(entry["lost"]),
        expected_false=None if false is None else tuple(false),
        text=text,
        path=_points(values, total, highest),
        path_false=None if false is None else _points(values, false, highest),
        mark=round(WIDTH * (entry["configured"] - values[0]) / (values[-1] - values[0]), 1),
    )


def same_around(counts: list[int], at: int) -> tuple[int, int]:
    """First and last index around `at` up to which the count stays what it is there."""
    allowed = max(1.0, _SAME * counts[at])
    low = high = at
    while low > 0 and abs(counts[low - 1] - counts[at]) <= allowed:
        low -= 1
    while high < len(counts) - 1 and abs(counts[high + 1] - counts[at]) <= allowed:
        high += 1
    return low, high


def _points(values: list[float], counts: list[float] | list[int], highest: float) -> str:
    """The curve for an SVG polyline."""
    span = values[-1] - values[0]
    return " ".join(
        f"{WIDTH * (value - values[0]) / span:.1f},{HEIGHT * (1 - count / highest):.1f}"
        for value, count in zip(values, counts, strict=True)
    )
