"""A sentence of the report for the page: the script writes quoted text apart from the words around it."""

from ..report.wording import Sentence

QUOTED = "quoted"
"""Marks text that the report writes in quotation marks; names, paths and commands have none."""


def pieces(sentence: Sentence) -> list[str | list[str]]:
    """Split a sentence of the report: words and numbers as strings, text from elsewhere as a list of it and, if in quotation marks, `QUOTED`."""
    return [
        piece.text
        if piece.kind in ("words", "number")
        else [piece.text]
        if piece.kind == "plain"
        else [piece.text, QUOTED]
        for piece in sentence.pieces()
    ]
