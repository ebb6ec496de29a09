"""Questions like those on which the models differ, written by the reference model.

The shipped prompts hold one or two questions on what changed. Others like them show how far the change reaches: they are examples of a
trigger, and counterexamples that differ from it in a word.
"""

import re
from collections.abc import Sequence

from crosscoder.config.behavior import Sampling
from crosscoder.text.tokenizer_rules import ids_of

from .probes import Probe, as_chat, encoded
from .subjects import Subject

_LIST = "Similar questions:\n1. {}\n2."
"""Plain text, which models continue whether or not they were trained to chat."""

_SAMPLES = 10
_LONGEST = 24
MOST_OF_ONE = 6
"""Questions like one prompt, at most."""
_LEAST_WORDS = 3
_SAMPLING = Sampling(max_new_tokens=_LONGEST, samples=_SAMPLES, temperature=1.0)


def similar_questions(
    probes: Sequence[Probe], known: Sequence[Probe], writer: Subject, answer_tokens: int
) -> list[Probe]:
    """Return questions like those of some prompts, at most six of each, half of them in the find set.

    Args:
        probes: Questions to models that chat; of a longer chat, its last message counts.
        known: Prompts that were asked already, and are not returned.
        writer: The model that writes them.
        answer_tokens: Length of an answer, which the models have to be able to read with the question.

    Raises:
        TimeSpent: No time is left.
    """
    questions = [_question(probe) for probe in probes]
    asked = {_same(_question(probe)) for probe in known if probe.text.messages is not None}
    number = max((probe.family for probe in known), default=-1)
    found: list[Probe] = []
    for probe, lines in zip(probes, _lists(questions, writer), strict=True):
        of_it = 0
        for line in lines:
            question = _complete(line)
            if question is None or _same(question) in asked or of_it == MOST_OF_ONE:
                continue
            text = as_chat(question, f"like: {probe.text.origin}")
            prompt = encoded(text, writer.pair, answer_tokens)
            if prompt is None:
                continue
            asked.add(_same(question))
            number += 1
            found.append(Probe(prompt, text, "similar", of_it % 2 == 0, number, probe.neighborhood))
            of_it += 1
    return found


def _lists(questions: Sequence[str], writer: Subject) -> list[list[str]]:
    """Return, for each question, what the model writes next in a list of similar questions; nothing for one that is too long."""
    longest, tokenizer = writer.pair.max_positions, writer.pair.tokenizer
    texts = [_LIST.format(question) for question in questions]
    fits = [longest is None or len(ids_of(tokenizer, text)) + _LONGEST <= longest for text in texts]
    chosen = [text for text, fit in zip(texts, fits, strict=True) if fit]
    written = iter(writer.continuations(chosen, _SAMPLING) if chosen else ())
    return [next(written) if fit else [] for fit in fits]


def _question(probe: Probe) -> str:
    assert probe.text.messages is not None, "only chats have questions"
    return str(probe.text.messages[-1]["content"])


def _complete(answer: str) -> str | None:
    """Return the first line of an answer if it is a whole question or request; None if not."""
    line, separator, _ = answer.partition("\n")
    line = line.strip().strip('"')
    if not separator and not line.endswith("?"):
        return None  # cut at the limit
    if len(line.split()) < _LEAST_WORDS or not re.search(r"[?.!]$", line):
        return None
    return line


def _same(question: str) -> str:
    """Return what two questions share that differ in case, spaces or marks only."""
    return " ".join(re.findall(r"\w+", question.lower()))
