"""How the models differ before any dictionary, in words: predictions, layers, and the difference of activations itself."""

import math
import re
from typing import Any

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import read_json

from .phrases import NOT_MEASURED, visible
from .schema import BeforeDictionary, LayerShift, Prediction, Statement
from .wording import Quote, Sentence, listed, say, tokens

# Rows of the table of layers (besides the hookpoint and the last), tokens and places that are listed.
_LAYERS, _TOKENS, _PLACES = 10, 6, 5
_POSITIONS = 6

# Names hold no numbers, which would be in no field: components are counted in words, and positions are in the sentence.
_NAMES = {
    "mean": "mean difference",
    **{
        f"component {place}": f"{word} principal component"
        for place, word in enumerate(("first", "second", "third", "fourth", "fifth"), start=1)
    },
}
_NOT_COMPARABLE = "undefined, because the models predict tokens of different vocabularies, so their predictions have no divergence."
_FIRST_POSITIONS = re.compile(r"mean of the first (\d+) positions")


def before_dictionary(folder: RunFolder, summary: dict[str, Any]) -> BeforeDictionary:
    """Return what survey.json, if the run has one, and the summary of the analysis contain."""
    statements: list[Statement] = []
    predictions: tuple[Prediction, ...] = ()
    layers: tuple[LayerShift, ...] = ()
    if folder.survey.is_file():
        survey = read_json(folder.survey, "remove it and run crosscoder run again")
        if survey["predictions"] is None:
            statements.append(Statement(name="predictions", text=say(_NOT_COMPARABLE), verdict=NOT_MEASURED))
        else:
            statements += _predictions(survey)
            predictions = tuple(_prediction(entry) for entry in survey["predictions"]["largest"][:_PLACES])
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
        same = say("both models predict the same next token probabilities after each of {over}.", over=over)
        return [Statement(name="predictions", text=same)]
    by_template: Sentence | str = ""
    if kl["template_mean"] is not None and kl["other_mean"] is not None:
        by_template = say(
            "; the mean is {template:.4f} nats after tokens of the chat template and {other:.4f} after others",
            template=kl["template_mean"],
            other=kl["other_mean"],
        )
    differ = say(
        "the models' next-token predictions differ by {mean:.4f} nats per token on average (KL of the intervened model from the reference; "
        "median {median:.4f}), over {over}; the hundredth of the tokens with the largest KL holds {largest_hundredth:percent} of the "
        "total{by_template}.",
        mean=kl["mean"],
        median=kl["median"],
        over=over,
        largest_hundredth=kl["largest_hundredth"],
        by_template=by_template,
    )
    rows = sorted(kl["by_position"], key=lambda row: -row["mean"])[:_POSITIONS]
    where = say(
        "the mean KL is largest at positions {rows}.",
        rows=listed((f"from_{row['first']}", _position(row)) for row in rows),
    )
    return [
        Statement(name="predictions", text=differ, value=kl["mean"]),
        Statement(name="where in a document", text=where),
        Statement(name="tokens the intervened model prefers", text=_most_changed(found["raised"], "doubles")),
        Statement(name="tokens the intervened model avoids", text=_most_changed(found["lowered"], "halves")),
    ]


def _position(row: dict[str, Any]) -> Sentence:
    if row["first"] == row["last"]:
        return say("{position} ({kl:.4f} nats)", position=row["first"], kl=row["mean"])
    return say("{first}–{last} ({kl:.4f} nats)", first=row["first"], last=row["last"], kl=row["mean"])


def _most_changed(entries: list[dict[str, Any]], verb: str) -> Sentence:
    if not entries:
        return say("none: the probability of no likely token {verb} anywhere.", verb=verb)
    most_often = listed(
        (
            f"rank_{rank}",
            say(
                "{token} {share:percent} (× {ratio:.2g})",
                token=Quote(entry["token"]),
                share=entry["share"],
                ratio=math.exp(entry["mean_log_ratio"]),
            ),
        )
        for rank, entry in enumerate(entries[:_TOKENS], start=1)
    )
    return say(
        "tokens whose probability at least {verb} most often, with the share of positions and the geometric mean factor there: {most_often}.",
        verb=verb,
        most_often=most_often,
    )


def _prediction(entry: dict[str, Any]) -> Prediction:
    def next_tokens(side: str) -> Sentence:
        return listed(
            (f"rank_{rank}", say("{token} {probability:percent}", token=Quote(text), probability=probability))
            for rank, (text, probability) in enumerate(entry[side], start=1)
        )

    return Prediction(
        context=visible(entry["context"]),
        kl=entry["kl"],
        reference=next_tokens("reference"),
        intervened=next_tokens("intervened"),
    )


def _layers(rows: list[dict[str, Any]]) -> tuple[LayerShift, ...]:
    """Return evenly spaced rows, the hookpoint and the last."""
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
    """Return statements about the difference of the activations itself; none if it was not measured."""
    statements = [_direction(entry, str(entry["name"])) for entry in summary.get("plain_difference") or ()]
    components = summary.get("difference_components") or {}
    if components:
        shares = listed(
            (
                f"first_{n}",
                say("{components:counted component} {share:percent}", components=int(n), share=share),
            )
            for n, share in components.items()
        )
        explained = (summary.get("fve") or {}).get("difference")
        text = say(
            "share of the variance of the difference that they explain, fitted to these same tokens: {shares}.{dictionary}",
            shares=shares,
            dictionary=""
            if explained is None
            else say(" The dictionary explains {fve_difference:percent}.", fve_difference=explained),
        )
        statements.append(Statement(name="principal components", text=text))
    return statements


def _direction(entry: dict[str, Any], name: str) -> Statement:
    first = _FIRST_POSITIONS.fullmatch(name)
    text = say(
        "{share:percent} of the squared difference lies along it{positions}{lens}.",
        share=entry["share"],
        positions=say(" ({positions} positions)", positions=int(first[1])) if first else "",
        lens=_lens_tokens(entry),
    )
    name = "mean difference of the first positions" if first else _NAMES.get(name, name)
    return Statement(name=name, text=text, value=entry["share"])


def _lens_tokens(entry: dict[str, Any]) -> Sentence | str:
    """Return those of its two lists of tokens that are better than the lists of random directions."""
    if not entry["top"]:
        return ""
    readable = entry["readable"]
    if not any(readable.values()):
        return say("; it does not read as tokens")
    return say(
        "{toward}{away}",
        toward=say("; top tokens {tokens}", tokens=tokens(entry["top"], "toward")) if readable["top"] else "",
        away=say("; bottom tokens {tokens}", tokens=tokens(entry["bottom"], "away"))
        if readable["bottom"]
        else "",
    )
