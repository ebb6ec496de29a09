"""A metric of generated answers, with the interface of a metric of logits."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Judged, Pattern, Sampling, UserFunction
from crosscoder.language_models.pair import ModelPair

from ..latents.dictionary_view import DictionaryView
from .generation import Generator
from .patching import PatchedRun
from .prompt_statistics import Bounds
from .prompts import Prompt
from .scorers import Scorer, Settled


def answer_bounds(metric: Pattern | UserFunction | Judged) -> Bounds | None:
    """Return the smallest and the largest value of a metric of answers; None for a function without bounds."""
    return metric.bounds if isinstance(metric, UserFunction) else (0.0, 1.0)


class AnswerMeasurement:
    """Generates answers to all prompts and scores them. The value of a prompt is the mean over its answers."""

    def __init__(
        self,
        pair: ModelPair,
        view: DictionaryView | None,
        scorer: Scorer,
        unit: str,
        bounds: Bounds | None,
        prompts: Sequence[Prompt],
        policy: TokenPolicy,
        sampling: Sampling,
        seed: int,
        settled: Settled | None = None,
    ) -> None:
        """
        Args:
            settled: Ends answers of changed models early, since only their scores are used.
        """
        self.unit, self.bounds, self.n_prompts = unit, bounds, len(prompts)
        self._prompts, self._scorer, self._settled = prompts, scorer, settled
        self._generator = Generator(pair, view, prompts, policy, sampling, seed)
        self.unchanged_answers: dict[PatchedRun, list[list[str]]] = {}
        """Cached answers of the unchanged models."""

    def values(self, run: PatchedRun) -> Float64[np.ndarray, " prompt"]:
        """See `Measurement.values`."""
        # Unchanged models are measured for the shift and again for its corners.
        answers = self.unchanged_answers.get(run) if run.is_unchanged else None
        if answers is None:
            answers = self._generator.answers(run, None if run.is_unchanged else self._settled)
            if run.is_unchanged:
                self.unchanged_answers[run] = answers
        questions = [prompt.text for prompt, texts in zip(self._prompts, answers, strict=True) for _ in texts]
        scores = self._scorer(questions, [answer for texts in answers for answer in texts])
        return np.asarray(scores, dtype=np.float64).reshape(self.n_prompts, -1).mean(axis=1)
