"""The prompts that both models are asked first, from the run's own text and from the set that ships with the project; and variants of
those on which the models differ.

Half of the prompts are for finding hypotheses, the other half for testing them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from crosscoder.config import RunConfig
from crosscoder.errors import CrosscoderError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.text_files import Text, read_texts

from ..behaviors.prompts import Prompt, encode

Origin = Literal["probes", "text", "openings", "variants", "similar"]

SHIPPED = Path(__file__).parent / "probes.jsonl"

_TEXT_SHARE = 0.2
"""Share of the prompts that come from the run's own text if the models chat; all of them if they do not."""
_OPENINGS = 16
_MOST_UNKNOWN = 0.2
_STREAM = 31
_LEAST_WORDS, _MOST_WORDS = 3, 48

_FIND_VARIANTS = (
    "Please answer this: {}", "{} Answer briefly.", "I have a question. {}", "Quick question: {}", "{} Thanks!",
    "Someone asked me this today: {}", "{} Just tell me.", "Hello! {}",
)  # fmt: skip
_CLAIM_VARIANTS = (
    "Could you help me with this? {}", "{} Please be brief.", "One more thing: {}", "My friend wants to know: {}", "{} I am curious.",
    "Here is my question: {}", "{} Answer in one sentence.", "For a quiz: {}", "Good morning. {}", "{} I forgot.", "Next question: {}",
    "Tell me, please. {}", "I was wondering about this: {}", "{} Take your time.",
)  # fmt: skip
_FIND_BEGINNINGS = (
    "It is said: {}",
    "Note. {}",
    "As I wrote before, {}",
    "Chapter one. {}",
    "From the notes: {}",
    "Again: {}",
)
_CLAIM_BEGINNINGS = (
    "Remember this. {}", "Yesterday I read this: {}", "To begin with, {}", "In short: {}", "From a letter: {}", "Part two. {}",
    "Here it is: {}", "As they say: {}", "Listen. {}", "First of all, {}",
)  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """A prompt, and which set it belongs to."""

    prompt: Prompt
    text: Text
    origin: Origin
    find: bool
    """Whether it is in the find set; otherwise it is in the claim set."""

    family: int
    """A prompt and its variants have the same number."""

    near: int | None = None
    """Family of the prompt that a variant or a similar question was made from; None in the first round."""

    @property
    def neighborhood(self) -> int:
        """Family of the prompt of the first round that this one is near to."""
        return self.family if self.near is None else self.near


def choose_probes(config: RunConfig, pair: ModelPair) -> list[Probe]:
    """Return the prompts of the first round, at most `discovery.prompts`.

    Raises:
        ConfigError, DataError, FormatError: The run's text cannot be read.
    """
    wanted, chats = config.discovery.prompts, pair.chat_template is not None
    rng = np.random.default_rng([config.seed, _STREAM])
    shipped = list(_shipped(chats))
    from_text = list(_from_text(config, chats, rng))
    n_text = round(wanted * _TEXT_SHARE) if chats else wanted
    openings = [text for kind, text in shipped if kind == "opening"][: min(_OPENINGS, wanted // 20)]
    probes = [text for kind, text in shipped if kind != "opening"]
    chosen: dict[Origin, list[Prompt]] = {"text": [], "openings": [], "probes": []}
    texts: dict[str, Text] = {}
    offered: tuple[tuple[Origin, Sequence[Text], int], ...] = (
        ("text", from_text, n_text), ("openings", openings, len(openings)), ("probes", probes, wanted),
    )  # fmt: skip
    for origin, candidates, most in offered:
        for text in candidates:
            if len(chosen[origin]) == most or sum(map(len, chosen.values())) == wanted:
                break
            prompt = encoded(text, pair, config.discovery.answer_tokens)
            if prompt is not None and prompt.text not in texts:
                chosen[origin].append(prompt)
                texts[prompt.text] = text
    number = count()
    return [
        Probe(prompt, texts[prompt.text], origin, find, next(number))
        for origin, prompts in chosen.items()
        for prompt, find in zip(prompts, _halves(len(prompts), rng), strict=True)
    ]


def n_wordings(chat: bool) -> int:
    """Return in how many other words a prompt is asked again."""
    return len(_FIND_VARIANTS + _CLAIM_VARIANTS) if chat else len(_FIND_BEGINNINGS + _CLAIM_BEGINNINGS)


def variants_of(probes: Sequence[Probe], pair: ModelPair, answer_tokens: int) -> list[Probe]:
    """Return each prompt in other words: some for finding what changed there, others for testing it."""
    found: list[Probe] = []
    for probe in probes:
        chat = probe.text.messages is not None
        find, claim = (_FIND_VARIANTS, _CLAIM_VARIANTS) if chat else (_FIND_BEGINNINGS, _CLAIM_BEGINNINGS)
        for wordings, in_find in ((find, True), (claim, False)):
            for wording in wordings:
                text = _reworded(probe.text, wording)
                prompt = encoded(text, pair, answer_tokens)
                if prompt is not None:
                    found.append(Probe(prompt, text, "variants", in_find, probe.family, probe.family))
    return found


def as_chat(question: str, origin: str) -> Text:
    """Return a chat that begins with a question."""
    return Text(None, ({"role": "user", "content": question},), origin)


def _reworded(text: Text, wording: str) -> Text:
    if text.messages is None:
        return Text(wording.format(text.content), None, text.origin)
    *before, last = text.messages
    return Text(None, (*before, last | {"content": wording.format(last["content"])}), text.origin)


def _shipped(chats: bool) -> Iterator[tuple[str, Text]]:
    """Yield the kind and the text of each shipped prompt that suits the models."""
    for number, line in enumerate(SHIPPED.read_text(encoding="utf-8").splitlines(), start=1):
        entry, origin = json.loads(line), f"{SHIPPED.name}, line {number}"
        if (entry["kind"] == "text") != chats:
            yield (
                entry["kind"],
                as_chat(entry["text"], origin) if chats else Text(entry["text"], None, origin),
            )


def _from_text(config: RunConfig, chats: bool, rng: np.random.Generator) -> Iterator[Text]:
    """Yield prompts from the run's own text, the sources in turn: the first user message of a chat, the beginning of other text."""
    assert config.text is not None
    sources = [read_texts(source) for source in config.text.sources]
    orders = [iter(rng.permutation(len(source)).tolist()) for source in sources]
    left = list(range(len(sources)))
    while left:
        for source in list(left):
            index = next(orders[source], None)
            if index is None:
                left.remove(source)
                continue
            text = sources[source][index]
            found = _opening_turn(text) if text.messages is not None else _beginning(text, rng)
            if found is not None and (found.messages is None or chats):
                yield found


def _opening_turn(text: Text) -> Text | None:
    """Return a chat up to its first user message; None if it has none."""
    messages = text.messages or ()
    for place, message in enumerate(messages):
        if message["role"] == "user":
            return Text(None, messages[: place + 1], text.origin)
    return None


def _beginning(text: Text, rng: np.random.Generator) -> Text | None:
    """Return the first words of a text, but not all of it; None if it is too short."""
    content = (text.content or "").strip()
    ends = [match.end() for match in re.finditer(r"\S+", content)]
    if len(ends) < _LEAST_WORDS + 2:
        return None
    n_words = int(rng.integers(_LEAST_WORDS, min(_MOST_WORDS, len(ends) - 1)))
    return Text(content[: ends[n_words - 1]], None, text.origin)


def encoded(text: Text, pair: ModelPair, answer_tokens: int) -> Prompt | None:
    """Return a text as a prompt; None if the models cannot read it together with an answer, or do not know its words."""
    try:
        prompt = encode([text], pair)[0]
    except CrosscoderError:
        # A prompt of ours that a template refuses, or that is too long, is none for these models; their own text was read before.
        return None
    sides = [prompt.read_by(model).token_ids for model in range(2)]
    longest = pair.max_positions
    if longest is not None and max(map(len, sides)) + answer_tokens > longest:
        return None
    unknown = pair.tokenizer.unk_token_id
    if unknown is not None and (sides[0] == unknown).mean() > _MOST_UNKNOWN:
        return None
    return prompt


def _halves(n: int, rng: np.random.Generator) -> list[bool]:
    """Return which of n prompts are in the find set: half of them."""
    return (rng.permutation(n) % 2 == 0).tolist()
