"""What the models differ in before any dictionary, in words: predictions, layers, and the plain difference of activations."""

import json
import math
from typing import Any

from crosscoder.folder import RunFolder

from .phrases import fixed, percent, visible, whole
from .schema import BeforeDictionary, LayerShift, Prediction, Statement

# Rows of the table of layers, beside the hookpoint and the last; and how many tokens and places are told.
_LAYERS, _TOKENS, _PLACES = 10, 6, 5
_POSITIONS = 6


def before_dictionary(folder: RunFolder, summary: dict[str, Any]) -> BeforeDictionary:
    """From survey.json, where the run has one, and the summary of the analysis."""
    statements: list[Statement] = []
    predictions: tuple[Prediction, ...] = ()
    layers: tuple[LayerShift, ...] = ()
    if folder.survey.is_file():
        survey = json.loads(folder.survey.read_text(encoding="utf-8"))
        statements += _predictions(survey)
        predictions = tuple(_place(entry) for entry in survey["predictions"]["largest"][:_PLACES])
        layers = _layers(survey["layers"] or [])
    else:
        statements.append(Statement(name="predictions, layers", text="not measured", verdict="not measured"))
    statements += _plain_difference(summary)
    return BeforeDictionary(statements=tuple(statements), predictions=predictions, layers=layers)


def _predictions(survey: dict[str, Any]) -> list[Statement]:
    found = survey["predictions"]
    kl = found["kl"]
    over = f"{whole(found['n_tokens'])} held-out tokens of {whole(survey['n_documents'])} documents"
    if kl["max"] == 0:
        return [Statement(name="predictions", text=f"both models predict the same after each of {over}.")]
    parts = [
        f"the models' next-token predictions differ by {fixed(kl['mean'], 4)} nats a token (KL of the intervened from the "
        f"reference; median {fixed(kl['median'], 4)}), over {over}; the largest hundredth of the tokens holds "
        f"{percent(kl['largest_hundredth'])} of it"
    ]
    if kl["template_mean"] is not None and kl["other_mean"] is not None:
        parts.append(
            f"{fixed(kl['template_mean'], 4)} nats after tokens of the chat template and {fixed(kl['other_mean'], 4)} "
            "after others"
        )
    rows = sorted(kl["by_position"], key=lambda row: -row["mean"])[:_POSITIONS]
    where = ", ".join(f"{_range(row)} {fixed(row['mean'], 4)}" for row in rows)
    return [
        Statement(name="predictions", text="; ".join(parts) + "."),
        Statement(name="where in a document", text=f"largest at positions {where} nats."),
        Statement(name="tokens the intervened model prefers", text=_mined(found["raised"], "doubles")),
        Statement(name="tokens it avoids", text=_mined(found["lowered"], "halves")),
    ]


def _range(row: dict[str, Any]) -> str:
    return str(row["first"]) if row["first"] == row["last"] else f"{row['first']}–{row['last']}"


def _mined(entries: list[dict[str, Any]], verb: str) -> str:
    if not entries:
        return f"none: the probability of no likely token {verb} anywhere."
    told = ", ".join(
        f"“{visible(entry['token'])}” at {percent(entry['share'])} of the positions (× {math.exp(entry['mean_log_ratio']):.2g})"
        for entry in entries[:_TOKENS]
    )
    return f"the probability at least {verb} most often for {told}."


def _place(entry: dict[str, Any]) -> Prediction:
    def next_(side: str) -> str:
        return ", ".join(f"“{visible(text)}” {percent(probability)}" for text, probability in entry[side])

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
            name=_layer(row) + (" (after the final norm)" if index == len(rows) - 1 else ""),
            cka=row["cka"],
            change=row["change"],
            hookpoint=row["hookpoint"],
        )
        for index, row in enumerate(rows)
        if index % every == 0 or row["hookpoint"] or index == len(rows) - 1
    )


def _layer(row: dict[str, Any]) -> str:
    names = [
        "embeddings" if index == 0 else f"layer {index - 1}"
        for index in (row["reference"], row["intervened"])
    ]
    return names[0] if names[0] == names[1] else " / ".join(names)


def _plain_difference(summary: dict[str, Any]) -> list[Statement]:
    """What the difference of the activations says without a dictionary; nothing where it was not measured."""
    statements = [
        Statement(
            name=entry["name"],
            text=f"{percent(entry['share'])} of the squared difference lies along it"
            + (f"; points at {_quoted(entry['top'])}" if entry["top"] else "")
            + (f", and away from {_quoted(entry['bottom'])}" if entry["bottom"] else "")
            + ".",
        )
        for entry in summary.get("plain_difference") or ()
    ]
    components = summary.get("difference_components") or {}
    if components:
        shares = ", ".join(f"{n}: {percent(share)}" for n, share in components.items())
        own = (summary.get("fve") or {}).get("difference")
        ours = "" if own is None else f" The dictionary explains {percent(own)}."
        statements.append(
            Statement(
                name="principal components",
                text=f"the first explain of the variance of the difference, for these very tokens: {shares}.{ours}",
            )
        )
    return statements


def _quoted(tokens: list[str]) -> str:
    return ", ".join(f"“{visible(token)}”" for token in tokens)
