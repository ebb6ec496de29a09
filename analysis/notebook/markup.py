"""Runs, latents and behaviors as HTML for notebook output: no scripts, no external resources, all model and data text escaped.

Colors are inherited from the notebook, so that light and dark themes both work. Color never carries information alone: tokens
on which a latent fires are also underlined, thicker for larger values, and the peak is framed.
"""

from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from ..report.behavior_schema import BehaviorShift, Estimate
from ..report.content import short_names
from ..report.label_conditions import is_withheld, withheld_sentence
from ..report.phrases import NOT_MEASURED, Number, percent, unit_format, visible, whole
from ..report.render import prose_html
from ..report.wording import format_number
from ..tables.analysis_files import LABELS
from .records import ExampleRecord, LatentRecord, RunRecord

_CONTEXT = 9
"""Tokens on each side of a peak."""

_EXAMPLES = 6
_LOGITS = 8
_SHOWN = (
    "relative_norm", "decoder_cosine", "nu_error", "nu_reconstruction", "nu_unselected", "partner_jaccard", "q_value", "density",
    "shift_share", "seed_stability", "label_stability", "difference_cosine", "max_activation",
)  # fmt: skip
_PERCENT = ("density", "shift_share", "seed_stability", "label_stability")

_COUNT_HEADS = ("label", "latents", "interval", "by this training alone", "expected under nulls")

_HEAT = "224, 138, 30"
_MAX_OPACITY = 0.7
_MAX_THICKNESS = 4.0

_STYLE = Markup(
    """<style>
.cc { font-size: 13px; line-height: 1.45; max-width: 100%; color: inherit; }
.cc p { margin: 3px 0; }
.cc h4 { margin: 10px 0 2px; font-size: 13px; font-weight: 600; }
.cc .cc-title { font-size: 15px; font-weight: 600; }
.cc small, .cc .cc-muted { opacity: .75; font-weight: 400; font-size: 12px; }
.cc bdi { unicode-bidi: isolate; overflow-wrap: anywhere; }
.cc table { border-collapse: collapse; margin: 4px 0; background: none; font-size: inherit; }
.cc table bdi { overflow-wrap: break-word; }
.cc th, .cc td { padding: 2px 14px 2px 0; text-align: left; vertical-align: top; font-weight: 400; background: none; border: 0;
  border-bottom: 1px solid rgba(128, 128, 128, .35); color: inherit; }
.cc th { opacity: .75; font-size: 12px; }
.cc td.cc-n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.cc .cc-columns { display: flex; flex-wrap: wrap; gap: 2px 26px; }
.cc .cc-columns > div { min-width: 0; max-width: 100%; }
.cc .cc-scroll { overflow-x: auto; }
.cc .cc-example { margin: 6px 0 8px; padding-left: 8px; border-left: 2px solid rgba(128, 128, 128, .35); }
.cc .cc-tokens { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 12px; }
.cc .cc-pair { display: inline-flex; flex-direction: column; vertical-align: top; margin: 0 1px 3px 0; max-width: 100%; }
.cc .cc-pair bdi { white-space: pre-wrap; padding: 0 1px; border-bottom: 0 solid currentColor; }
.cc .cc-peak { outline: 1.5px solid currentColor; outline-offset: 1px; }
.cc .cc-special { opacity: .6; font-style: italic; }
.cc .cc-token { border: 1px solid rgba(128, 128, 128, .4); border-radius: 2px; padding: 0 3px; display: inline-block;
  white-space: pre-wrap; }
</style>"""
)


def examples_html(examples: Sequence[ExampleRecord], max_context: int | None = _CONTEXT) -> str:
    """Render examples with two rows of tokens each: contributions to the reference above, to the intervened model below.

    Args:
        max_context: Tokens on each side of the peak; None shows all.
    """
    return _output(_examples(examples, max_context))


def latent_html(latent: LatentRecord) -> str:
    """Render one latent: label and explanation, numbers with intervals, logit-lens tokens, and examples."""
    head = Markup('<p><span class="cc-title">latent {}</span> {} <small>evidence: {}</small></p>').format(
        latent.latent, latent.label, latent.evidence
    )
    numbers = [
        (
            name.replace("_", " "),
            _number(latent.numbers[name].value, name),
            _interval(latent.numbers[name], name),
        )
        for name in _SHOWN
        if name in latent.numbers and latent.numbers[name].value is not None
    ]
    shown_examples = latent.examples[:_EXAMPLES]
    more = len(latent.examples) - len(shown_examples)
    return _output(
        head,
        Markup("<p><bdi>{}</bdi></p>").format(visible(latent.explanation or latent.reason)),
        _table(("", "", "interval"), numbers, numeric=(1, 2)),
        _logits(latent),
        Markup("<h4>Examples{}</h4>").format(f" ({more} more in .examples)" if more else ""),
        _examples(shown_examples, _CONTEXT) if shown_examples else Markup("<p>None.</p>"),
    )


def behaviors_html(behaviors: Iterable[BehaviorShift]) -> str:
    """Render the shifts of behaviors with the report's sentences."""
    return _output(*(_behavior(behavior) for behavior in behaviors))


def run_html(run: RunRecord) -> str:
    """Render a run: the models compared, the number of latents with each label, and the shifts of behaviors."""
    place = Markup("<p><small>{}</small></p>").format(visible(str(run.path)))
    summary = run.summary
    if summary is None:
        return _output(Markup('<p class="cc-title">This run has not been analyzed yet</p>'), place)
    reference, intervened = (visible(name) for name in short_names(summary))
    head = Markup('<p class="cc-title"><bdi>{}</bdi> → <bdi>{}</bdi></p>').format(reference, intervened)
    counts = [
        (
            label,
            whole(entry["count"]),
            _range(entry["low"], entry["high"], whole),
            whole(entry.get("candidates")),
            _expected(entry.get("expected_false"), entry.get("expected_false_high")),
        )
        for label in LABELS
        for entry in [summary["counts"].get(label) or {"count": 0, "low": None, "high": None}]
    ]
    fve = summary["fve"]
    quality = [(name, percent(fve.get(name))) for name in ("reference", "intervened", "difference")]
    columns = Markup('<div class="cc-columns"><div>{}</div><div>{}</div></div>').format(
        _table(_COUNT_HEADS, counts, numeric=(1, 2, 3, 4)),
        _table(("variance explained", ""), quality, numeric=(1,)),
    )
    behaviors = [
        (
            visible(found.name),
            _estimate(found.shift, found.unit),
            "established" if found.established else "not established",
        )
        for found in run.behaviors
    ]
    sentences = [Markup("<p>{}</p>").format(prose_html(sentence)) for sentence in run.sentences]
    if not sentences and is_withheld(summary):
        sentences = [Markup("<p>{}</p>").format(prose_html(withheld_sentence(summary)))]
    return _output(
        head, place, *sentences, columns,
        _table(("behavior", "shift", "verdict"), behaviors, numeric=(1,)) if behaviors else Markup(""),
    )  # fmt: skip


# --- pieces -----------------------------------------------------------------------------------------------------------


def _output(*parts: Markup) -> str:
    return str(Markup('<div class="cc">{}{}</div>').format(_STYLE, Markup("\n").join(parts)))


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str | Markup]], numeric: Sequence[int] = ()
) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(text) for text in heads)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td class="cc-n">{}</td>' if place in numeric else "<td><bdi>{}</bdi></td>").format(
                    cell
                )
                for place, cell in enumerate(row)
            )
        )
        for row in rows
    )
    return Markup('<div class="cc-scroll"><table><tr>{}</tr>{}</table></div>').format(head, body)


def _behavior(behavior: BehaviorShift) -> Markup:
    rows = [
        (name, _estimate(estimate, behavior.unit))
        for name, estimate in (
            ("reference", behavior.reference),
            ("intervened", behavior.intervened),
            ("shift", behavior.shift),
        )
    ]
    sentences = Markup("").join(
        Markup("<p>{}</p>").format(prose_html(sentence)) for sentence in behavior.sentences
    )
    return Markup(
        '<p><span class="cc-title"><bdi>{}</bdi></span> <small><bdi>{}</bdi></small></p>{}{}'
    ).format(
        visible(behavior.name), visible(behavior.description), sentences, _table(("", behavior.unit), rows)
    )


def _logits(latent: LatentRecord) -> Markup:
    if not latent.logits:
        return Markup("")
    rows = []
    for model, table in latent.logits.items():
        for side in ("top", "bottom"):
            shown_tokens = table[table["side"] == side].head(_LOGITS)
            tokens = Markup(" ").join(
                Markup('<bdi class="cc-token">{}</bdi>').format(visible(token))
                for token in shown_tokens["token"]
            )
            if False in shown_tokens["readable"].tolist():
                tokens = Markup('<span class="cc-muted">does not read as tokens</span>')
            rows.append((f"{model}, {side}", tokens))
    return Markup("<h4>Logit lens: tokens the direction points at</h4>") + _table(("", "tokens"), rows)


def _examples(examples: Sequence[ExampleRecord], max_context: int | None) -> Markup:
    maxima = [float(max(one.reference.max(), one.intervened.max())) for one in examples if len(one.tokens)]
    largest = max([1e-12, *maxima])
    about = Markup(
        '<p class="cc-muted">Upper row: what the latent writes into the reference; lower row: into the intervened model. '
        "Shading and underlines scale up to {}; the peak is framed.</p>"
    ).format(_significant(largest))
    return about + Markup("").join(_example(one, largest, max_context) for one in examples)


def _example(example: ExampleRecord, largest: float, max_context: int | None) -> Markup:
    peak, length = example.position - example.start, len(example.tokens)
    first, last = (
        (0, length)
        if max_context is None
        else (max(0, peak - max_context), min(length, peak + max_context + 1))
    )
    pairs = Markup("").join(_pair(example, at, at == peak, largest) for at in range(first, last))
    where = f"document {example.document:,} ({visible(example.source)}), token {example.position:,}, value {_significant(example.peak)}"
    if example.quantile is not None:
        where += f", drawn at quantile {example.quantile:.2f}"
    return Markup(
        '<div class="cc-example"><div class="cc-tokens">{}{}{}</div><small>{}</small></div>'
    ).format("… " if first else "", pairs, " …" if last < length else "", where)


def _pair(example: ExampleRecord, at: int, is_peak: bool, largest: float) -> Markup:
    amounts = {name: float(getattr(example, name)[at]) for name in ("reference", "intervened")}
    text = visible(example.tokens[at])
    rows = Markup("").join(
        Markup('<bdi style="background: rgba({}, {:.3f}); border-bottom-width: {:.2f}px">{}</bdi>').format(
            Markup(_HEAT), *_shade(amount / largest), text
        )
        for amount in amounts.values()
    )
    about = ", ".join(
        [
            f"value {_significant(float(example.values[at]))}",
            *(f"{name} {_significant(amount)}" for name, amount in amounts.items()),
        ]
    )
    classes = "cc-pair" + " cc-peak" * is_peak + " cc-special" * (example.special[at] or example.template[at])
    return Markup('<span class="{}" title="{}">{}</span>').format(classes, about, rows)


def _shade(share: float) -> tuple[float, float]:
    """Return the opacity of the background and the thickness of the underline, in pixels."""
    part = min(1.0, max(0.0, share))
    return _MAX_OPACITY * part, _MAX_THICKNESS * part if part > 0 else 0.0


def _number(value: Number | None, name: str) -> str:
    return NOT_MEASURED if value is None else percent(value) if name in _PERCENT else _significant(value)


def _interval(number: tuple[Number | None, float | None, float | None], name: str) -> str:
    _, low, high = number
    return "" if low is None or high is None else f"{_number(low, name)} to {_number(high, name)}"


def _range(low: float | None, high: float | None, form: Callable[[Number | None], str]) -> str:
    return NOT_MEASURED if low is None or high is None else f"{form(low)} to {form(high)}"


def _estimate(estimate: Estimate, unit: str) -> str:
    form = unit_format(unit)
    value, low, high = (
        NOT_MEASURED if part is None else format_number(part, form)
        for part in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def _expected(value: float | None, most: float | None) -> str:
    shown = NOT_MEASURED if value is None else _significant(value)
    return shown if most is None else f"{shown} (at most {most:.1f})"


def _significant(value: Number) -> str:
    return f"{value:.3g}".replace("-", "−")
