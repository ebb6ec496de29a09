"""The answers that join the text of the run (`text.answers`): those of both models to the prompts of the find set.

Answers to the claim set stay out: what tests a finding is never in the text that the dictionary is trained on, so that it is not rebuilt better
than what nobody has read.
"""

import logging
from typing import Literal

import numpy as np

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import remove_file
from crosscoder.text.text_files import Text
from crosscoder.text.transcripts import Transcript, write_transcripts

from ..behaviors.patching import INTERVENED, REFERENCE
from .answer_features import Answer
from .probes import Probe
from .search import Asked, SearchResult

logger = logging.getLogger(__name__)

Name = Literal["reference", "intervened"]
_MODELS: tuple[tuple[int, Name], ...] = ((REFERENCE, "reference"), (INTERVENED, "intervened"))


def answers_join(config: RunConfig) -> bool:
    """Whether answers join the text of the run."""
    return config.text is not None and config.text.answers


def lacks_answers(folder: RunFolder, config: RunConfig) -> bool:
    """Whether answers join the text, and the file of them is missing."""
    return answers_join(config) and not folder.transcripts.is_file()


def write_joining(folder: RunFolder, config: RunConfig, pair: ModelPair, found: SearchResult | None) -> None:
    """Write the answers that join the text, if any do. Once the harvest has begun, they stay as they are: a search that its time cut short
    may have gone on since, but the text of a run does not change."""
    if not answers_join(config):
        return
    if folder.harvest_began and folder.transcripts.is_file():
        logger.info("discover: the harvest has begun, so the answers that join its text stay as they are")
    elif found is None:
        remove_file(folder.transcripts)
    else:
        write_transcripts(folder.transcripts, joining_answers(found.asked, pair))


def require_answers(folder: RunFolder, config: RunConfig, why_not: str | None) -> None:
    """Raise ConfigError if answers join the text, but there are none: the models cannot be asked (`why_not`), or there was no time."""
    if not lacks_answers(folder, config):
        return
    if why_not is not None:
        raise ConfigError(
            f"text.answers: no answer can join the text, because {why_not}; or remove text.answers"
        )
    raise ConfigError(
        "text.answers: no answer can join the text, because the time of the search was spent before both models had answered every prompt; "
        "raise discovery.minutes (the answers so far are kept), or remove text.answers"
    )


def joining_answers(asked: Asked, pair: ModelPair) -> list[Transcript]:
    """Return both models' answers to the prompts of the find set, in order; one that both models gave once, and none that is empty."""
    found: list[Transcript] = []
    for place in np.flatnonzero(asked.in_find).tolist():
        probe, answers = asked.probes[place], (asked.reference[place], asked.intervened[place])
        own = [
            Transcript(_document(probe, answer, pair, model), name, answer.finished, probe.neighborhood)
            for (model, name), answer in zip(_MODELS, answers, strict=True)
            if answer.text
        ]
        if len(own) == 2 and (own[0].text, own[0].finished) == (own[1].text, own[1].finished):
            own = [Transcript(own[0].text, "both", own[0].finished, own[0].prompt)]
        found += own
    return found


def _document(probe: Probe, answer: Answer, pair: ModelPair, model: int) -> Text:
    """Return a prompt with an answer of one model to it."""
    messages, origin = probe.text.messages, probe.text.origin
    if messages is not None:
        return Text(None, (*messages, {"role": "assistant", "content": answer.text}), origin)
    # The text of an answer has no space before it, which the tokens have.
    token_ids = [*probe.prompt.read_by(model).token_ids.tolist(), *answer.token_ids]
    return Text(str(pair.tokenizer_of(model).decode(token_ids, skip_special_tokens=True)), None, origin)
