"""What the models differ in before any dictionary, in words: predictions, layers, and the plain difference of activations."""

import json
import math
import re
from typing import Any

from crosscoder.run.folder import RunFolder

from .phrases import NOT_MEASURED, visible
from .schema import BeforeDictionary, LayerShift, Prediction, Statement
from .wording import Quote, Sentence, listed, say, tokens

# Rows of the table of layers, beside the hookpoint and the last; and how many tokens and places are told.
_LAYERS, _TOKENS, _PLACES = 10, 6, 5
_POSITIONS = 6

# A number in a name would be in no field: components are counted in words, and of how many positions stands in the sentence.
_COMPONENTS = {
    f"component {place}": f"{word} component"
    for place, word in enumerate(("first", "second", "third", "fourth", "fifth"), start=1)
}
_NOT_COMPARABLE = "the two models predict tokens of different vocabularies, so that their predictions have no divergence: undefined."
_FIRST_POSITIONS = re.compile(r"mean of the first (\d+) positions")


def before_dictionary(folder: RunFolder, summary: dict[str, Any]) -> BeforeDictionary:
    """From survey.json, where the run has one, and the summary of the analysis."""
    statements: list[Statement] = []
    predictions: tuple[Prediction, ...] = ()
    layers: tuple[LayerShift, ...] = ()
    if folder.survey.is_file():
        survey = json.loads(folder.survey.read_text(encoding="utf-8"))
        if survey["predictions"] is None:
            statements.append(Statement(name="predictions", text=say(_NOT_COMPARABLE), verdict=NOT_MEASURED))
        else:
            statements += _predictions(survey)
            predictions = tuple(_place(entry) for entry in survey["predictions"]["largest"][:_PLACES])
        layers = _layers(survey["layers"] or [])
    else:
        statements.append(Statement(name="predictions, layers", text=say(NOT_MEASURED), verdict=NOT_MEASURED))
    statements += _plain_difference(summary)
    return BeforeDictionary(statements=tuple(statements), predictions=predictions, layers=layers)


def _predictions(survey: dict[str, Any]) -> list[Statement]:
    found = survey["predictions"]
    kl = found["kl"]
    over = say(
        "{n_tokens:whole} held-out tokens of {n_documents:whole} documents",
        n_tokens=found["n_tokens"],
        n_documents=survey["n_documents"],
    )
    if kl["max"] == 0:
        same = say("both models predict the same after each of {over}.", over=over)
        return [Statement(name="predictions", text=same)]
    by_template: Sentence | str = ""
    if kl["template_mean"] is not None and kl["other_mean"] is not None:
        by_template = say(
            "; {template:.4f} nats after tokens of the chat template and {other:.4f} after others",
            template=kl["template_mean"],
            other=kl["other_mean"],
        )
    differ = say(
        "the models' next-token predictions differ by {mean:.4f} nats a token (KL of the intervened from the reference; median "
        "{median:.4f}), over {over}; the largest hundredth of the tokens holds {largest_hundredth:percent} of it{by_template}.",
        mean=kl["mean"],
        median=kl["median"],
        over=over,
        largest_hundredth=kl["largest_hundredth"],
        by_template=by_template,
    )
    rows = sorted(kl["by_position"], key=lambda row: -row["mean"])[:_POSITIONS]
    where = say(
        "largest at positions {rows} nats.",
        rows=listed((f"from_{row['first']}", _range(row)) for row in rows),
    )
    return [
        Statement(name="predictions", text=differ, value=kl["mean"]),
        Statement(name="where in a document", text=where),
        Statement(name="tokens the intervened model prefers", text=_mined(found["raised"], "doubles")),
        Statement(name="tokens it avoids", text=_mined(found["lowered"], "halves")),
    ]


def _range(row: dict[str, Any]) -> Sentence:
    if row["first"] == row["last"]:
        return say("{position} {kl:.4f}", position=row["first"], kl=row["mean"])
    return say("{first}–{last} {kl:.4f}", first=row["first"], last=row["last"], kl=row["mean"])


def _mined(entries: list[dict[str, Any]], verb: str) -> Sentence:
    if not entries:
        return say("none: the probability of no likely token {verb} anywhere.", verb=verb)
    told = listed(
        (
            f"rank_{rank}",
            say(
                "{token} at {share:percent} of the positions (× {ratio:.2g})",
                token=Quote(entry["token"]),
                share=entry["share"],
                ratio=math.exp(entry["mean_log_ratio"]),
            ),
        )
        for rank, entry in enumerate(entries[:_TOKENS], start=1)
    )
    return say("the probability at least {verb} most often for {told}.", verb=verb, told=told)


def _place(entry: dict[str, Any]) -> Prediction:
    def next_(side: str) -> Sentence:
        return listed(
            (f"rank_{rank}", say("{token} {probability:percent}", token=Quote(text), probability=probability))
            for rank, (text, probability) in enumerate(entry[side], start=1)
        )

    return Prediction(
        context=visible(entry["context"]),
        kl=entry["kl"],
        reference=next_("reference"),
        intervened=next_("intervened"),
    )


def _layers(rows: list[dict[str, Any]]) -> tuple[LayerShift, ...]:
    """Some of the rows, evenly spread, with the hookpoint and the last."""
    every = max(1, math.ceil(len(rows) / _LAYERS))
    return tuple(
        LayerShift(
            name=say(
                "{layer}{last}",
                layer=_layer(row),
                last=" (after the final norm)" if index == len(rows) - 1 else "",
            ),
            cka=row["cka"],
            change=row["change"],
            hookpoint=row["hookpoint"],
        )
        for index, row in enumerate(rows)
        if index % every == 0 or row["hookpoint"] or index == len(rows) - 1
    )


def _layer(row: dict[str, Any]) -> Sentence:
    names = {
        side: say("embeddings") if row[side] == 0 else say("layer {layer}", layer=row[side] - 1)
        for side in ("reference", "intervened")
    }
    if names["reference"] == names["intervened"]:
        return names["reference"]
    return listed(names.items(), " / ")


def _plain_difference(summary: dict[str, Any]) -> list[Statement]:
    """What the difference of the activations says without a dictionary; nothing where it was not measured."""
    statements = [_direction(entry, str(entry["name"])) for entry in summary.get("plain_difference") or ()]
    components = summary.get("difference_components") or {}
    if components:
        shares = listed(
            (f"first_{n}", say("{components}: {share:percent}", components=int(n), share=share))
            for n, share in components.items()
        )
        own = (summary.get("fve") or {}).get("difference")
        text = say(
            "the first explain of the variance of the difference, for these very tokens: {shares}.{ours}",
            shares=shares,
            ours=""
            if own is None
            else say(" The dictionary explains {fve_difference:percent}.", fve_difference=own),
        )
        statements.append(Statement(name="principal components", text=text))
    return statements


def _direction(entry: dict[str, Any], name: str) -> Statement:
    first = _FIRST_POSITIONS.fullmatch(name)
    text = say(
        "{share:percent} of the squared difference lies along {it}{points}.",
        share=entry["share"],
        it=say("it ({positions} positions)", positions=int(first[1])) if first else "it",
        points=_points(entry["top"], entry["bottom"]),
    )
    name = "mean of the first positions" if first else _COMPONENTS.get(name, name)
    return Statement(name=name, text=text, value=entry["share"])


def _points(top: list[str], bottom: list[str]) -> Sentence:
    return say(
        "{toward}{away}",
        toward=say("; points at {tokens}", tokens=tokens(top, "toward")) if top else "",
        away=say(", and away from {tokens}", tokens=tokens(bottom, "away")) if bottom else "",
    )
