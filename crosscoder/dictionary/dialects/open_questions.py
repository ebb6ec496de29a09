"""What the files of a dictionary leave open: asked, never guessed.

A dialect asks for what its files do not say. Without an answer the import stops and says which setting gives it. An answer that no
dialect asked for is refused too, so that nobody believes that it had an effect.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...config.dictionary_source import DictionarySource
from ...config.model_names import model_names
from ...errors import ConfigError, FormatError, first_line

_ANSWERS = (
    "models",
    "reads",
    "direction",
    "normalization",
    "threshold",
    "uncalibrated",
    "activation",
    "code_normalization",
)


class Questions:
    """The answers to what a source leaves open, and notes on what was read."""

    def __init__(self, given: DictionarySource) -> None:
        self.given = given
        self.notes: list[str] = []
        self.digests: dict[str, str] = {}
        """SHA-256 of the files that answers name."""
        self._asked: set[str] = set()

    def note(self, text: str) -> None:
        """Remember what a person should know of the import."""
        self.notes.append(text)

    def models(self, count: int, hint: str = "") -> tuple[int, ...]:
        """Return, for each model of this toolkit's model axis, its place on the model axis of the file.

        Raises:
            ConfigError: The order is not given, or is no order of these models.
        """
        names = model_names(count)
        example = f"models in the file's order, e.g. --models {','.join(names)}"
        given = self._answer(
            "models",
            f"the file holds {count} models and does not say which is which{hint}; give the {example}",
        )
        if sorted(given) != sorted(names):
            raise ConfigError(
                f"models: {', '.join(given)} does not name each of the {count} models once; give the {example}"
            )
        return tuple(given.index(name) for name in names)

    def view(self) -> tuple[str, float]:
        """Return what a dictionary of one model reads, and the factor (1 or -1) that turns its input into ours.

        Raises:
            ConfigError: It is not given, or its direction is not.
        """
        reads: str = self._answer(
            "reads",
            "the file holds one model and does not say what it reads; give --reads pooled (activations of one model at a time) or "
            "--reads difference (a diff-SAE)",
        )
        if reads == "pooled":
            return reads, 1.0
        direction = self._answer(
            "direction",
            "the file does not say which difference it reads; give --direction intervened-reference or --direction "
            "reference-intervened",
        )
        return reads, 1.0 if direction == "intervened-reference" else -1.0

    def threshold(self, why: str) -> float:
        """Return the threshold of BatchTopK; NaN if it is to be calibrated later.

        Raises:
            ConfigError: It is not given.
        """
        self._asked |= {"threshold", "uncalibrated"}
        if self.given.uncalibrated and self.given.threshold is not None:
            raise ConfigError("uncalibrated: a threshold is given too; give one of them")
        if self.given.uncalibrated:
            self.note("no threshold yet: calibrate it on activations before use (crosscoder run does)")
            return float("nan")
        why = f"{why}; give --threshold NUMBER, or --uncalibrated to calibrate it on activations later"
        return float(self._answer("threshold", why))

    def activation(self, why: str) -> str:
        """Return `topk` or `batch_topk`. Raises ConfigError if it is not given."""
        return self._answer("activation", f"{why}; give --activation topk or --activation batch_topk")

    def code_normalization(self, why: str) -> str:
        """Return CROSSCODER, SAE or NONE. Raises ConfigError if it is not given."""
        return self._answer("code_normalization", f"{why}; give --code-normalization CROSSCODER, SAE or NONE")

    def centering(self, why: str) -> bool:
        """Return whether the mean over dimensions was removed from activations at each token. Raises ConfigError if it is not given."""
        given = self._answer(
            "normalization",
            f"{why}; give --normalization centered for a model with LayerNorm (GPT-2, Pythia), or --normalization none for one with RMSNorm "
            "(Llama, Gemma), on which it has no effect",
        )
        if given not in ("centered", "none"):
            raise ConfigError(
                f"normalization: {given!r} is not an answer here ({why}); give centered or none"
            )
        return given == "centered"

    def normalization(
        self, n_models: int, d_model: int, why: str
    ) -> tuple[Float[Tensor, "model d_model"] | None, Tensor | None]:
        """Return the mean and the scale (`[model]` or `[model, d_model]`) of x' = (x - mean) * scale, in the file's order of models.

        Raises:
            ConfigError: It is not given, or does not fit the dictionary.
            FormatError: The file that is named does not hold it.
        """
        given: str = self._answer(
            "normalization",
            f"{why}; give --normalization none, one factor per model in the file's order, e.g. --normalization "
            f"{','.join(['0.25'] * n_models)}, or a safetensors file with mean and std or scale",
        )
        if given == "none":
            return None, None
        try:
            numbers = [float(word) for word in given.split(",")]
        except ValueError:
            return self._statistics(Path(given), n_models, d_model)
        if len(numbers) != n_models or not all(0 < number < float("inf") for number in numbers):
            raise ConfigError(
                f"normalization: {given!r} is not {n_models} positive numbers, one per model of the file"
            )
        return None, torch.tensor(numbers, dtype=torch.float64).float()

    def _statistics(self, path: Path, n_models: int, d_model: int) -> tuple[Tensor, Tensor]:
        path = path.expanduser()
        try:
            found = load_file(path)
            self.digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        except (SafetensorError, OSError) as error:
            raise FormatError(
                f"normalization: {path} is neither numbers nor a readable safetensors file ({first_line(error)})"
            ) from None
        wide, mean = (n_models, d_model), found.get("mean")
        scale = found.get("scale")
        if "std" in found:
            scale = found["std"].double().reciprocal().float()
        fits = (
            mean is not None
            and mean.shape == wide
            and scale is not None
            and scale.shape in (wide, (n_models,))
        )
        if mean is None or scale is None or not fits or not bool((scale > 0).all() & scale.isfinite().all()):
            raise FormatError(
                f"{path}: needs mean {list(wide)} and positive std {list(wide)} or scale [{n_models}], in the file's order of models; "
                f"found {', '.join(f'{name} {list(value.shape)}' for name, value in found.items())}"
            )
        return mean.float(), scale.float()

    def finish(self, dialect: str) -> None:
        """Refuse answers that nothing asked for.

        Raises:
            ConfigError: There is one.
        """
        for name in _ANSWERS:
            if getattr(self.given, name) not in (None, False) and name not in self._asked:
                raise ConfigError(
                    f"{name}: has no effect on {self.given.source}, because its files ({dialect}) leave no such question open; "
                    "remove it"
                )

    def _answer(self, name: str, question: str) -> Any:
        self._asked.add(name)
        value = getattr(self.given, name)
        if value is None:
            raise ConfigError(f"{self.given.source}: {question}")
        return value
