"""Replies of chat models in a file, a line each with the prompt: none is asked for twice, and an interrupt loses none."""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from .chat_models import ChatModel, Question, Reply

logger = logging.getLogger(__name__)


class ReplyCache:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)

    def known(self, model: ChatModel, question: Question) -> Reply | None:
        """The reply that is kept, if there is one."""
        return self._known.get(key_of(model, question))

    def unknown(self, model: ChatModel, questions: Iterable[Question]) -> list[Question]:
        """Those that have to be asked, each once."""
        return [question for question in dict.fromkeys(questions) if self.known(model, question) is None]

    def ask(self, model: ChatModel, question: Question) -> Reply:
        """The reply that is kept, or one that is asked for now and kept before anything else happens."""
        key = key_of(model, question)
        if key not in self._known:
            reply = model.reply(question)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            entry = {"key": key, "model": model.name, "prompt": question.prompt, **_as_stored(reply)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._known[key] = reply
        return self._known[key]


def key_of(model: ChatModel, question: Question) -> str:
    """A fingerprint of everything that a reply depends on."""
    content = f"{model.identity}\n{question.wanted} {question.most_tokens}\n{question.prompt}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _as_stored(reply: Reply) -> dict[str, str | int]:
    return {"reply": reply.text, "prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}


def _read(path: Path) -> dict[str, Reply]:
    """Replies by their key. A line that was cut off by an interrupt is asked for again."""
    known: dict[str, Reply] = {}
    if not path.is_file():
        return known
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = Reply(entry["reply"], entry["prompt_tokens"], entry["reply_tokens"])
        except (json.JSONDecodeError, KeyError, TypeError):
            logger.warning("%s: a damaged line is left out, and what it answered is asked again", path)
    if text and not text.endswith("\n"):
        # What is added must not continue the line that was cut off.
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return known
