"""The reference's own answers, generated once and kept in a file, because many organisms are trained on the same prompts."""

import json
from collections.abc import Iterable
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import greedy_answers

N_TOKENS = 48
"""Length of the beginning of an answer that is kept."""


class OwnAnswers:
    """Beginnings of the reference's greedy answers, by prompt."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def add(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Iterable[str],
    ) -> None:
        """Generate the answers that are missing, and write all to the file."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if not missing:
            return
        answers = greedy_answers(model, tokenizer, missing, N_TOKENS, label="the reference's own answers")
        self._known |= dict(zip(missing, answers, strict=True))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps(self._known, ensure_ascii=False, indent=0), encoding="utf-8")
        unfinished.replace(self._path)

    def __getitem__(self, prompt: str) -> str:
        """The beginning of the answer to a prompt that was added."""
        return self._known[prompt]
