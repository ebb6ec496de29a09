"""Cache of chat model replies: a file with one line per prompt and reply, with its digest, appended before the next request is sent."""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crosscoder.runtime.digests import content_digest
from crosscoder.runtime.files import append_line
from crosscoder.runtime.json_text import parse_json

from .chat_models import ChatModel, Question, Reply

logger = logging.getLogger(__name__)


class ReplyCache:
    """A cache in the file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)

    def known(self, model: ChatModel, question: Question) -> Reply | None:
        """Return the cached reply, if any."""
        return self._known.get(key_of(model, question))

    def unknown(self, model: ChatModel, questions: Iterable[Question]) -> list[Question]:
        """Return the questions without a cached reply, each once."""
        return [question for question in dict.fromkeys(questions) if self.known(model, question) is None]

    def ask(self, model: ChatModel, question: Question) -> Reply:
        """Return the cached reply, or request one and store it before returning."""
        key = key_of(model, question)
        if key not in self._known:
            reply = model.reply(question)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            entry = {"key": key, "model": model.name, "prompt": question.prompt, **_as_stored(reply)}
            entry["digest"] = _digest_of(entry)
            append_line(self.path, json.dumps(entry, ensure_ascii=False))
            self._known[key] = reply
        return self._known[key]


def key_of(model: ChatModel, question: Question) -> str:
    """Return a digest of everything that a reply depends on."""
    content = f"{model.identity}\n{question.wanted} {question.max_tokens}\n{question.prompt}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _as_stored(reply: Reply) -> dict[str, str | int]:
    return {"reply": reply.text, "prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}


def _digest_of(entry: dict[str, Any]) -> str:
    return content_digest(json.dumps(entry, sort_keys=True).encode())


def _read(path: Path) -> dict[str, Reply]:
    """Return the replies by key. A truncated or altered line is dropped, and its question will be sent again."""
    known: dict[str, Reply] = {}
    if not path.is_file():
        return known
    # A damaged byte may be no text; its line then differs from its digest.
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            entry = parse_json(line)
            if entry.pop("digest", None) != _digest_of(entry):
                raise KeyError("digest")
            known[entry["key"]] = Reply(entry["reply"], entry["prompt_tokens"], entry["reply_tokens"])
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("%s: ignoring a damaged line; its question will be sent again", path)
    if text and not text.endswith("\n"):
        # New entries must not continue the truncated line.
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return known
