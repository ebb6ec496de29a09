"""A whole run: every section of its file, and what must fit between them."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from .activations import ActivationsConfig, CachedActivations, FileActivations
from .analysis import AnalysisConfig
from .block import Count, Settings
from .controls import ControlsConfig
from .dictionary import DictionaryConfig
from .pair import PairConfig
from .text import TextConfig
from .tokens import TokenPolicy
from .training import TrainingConfig
from .wandb import WandbConfig


class SurveyConfig(Settings):
    """What the models differ in before any dictionary: whole forward passes of both over some held-out documents."""

    documents: int = Field(default=48, ge=0, description="held-out documents that are read; 0 leaves it out")


class RunConfig(Settings):
    """One run: what is compared, on which text, with which dictionary, and where the results go."""

    output: Path = Field(description="run folder; made if missing")
    pair: PairConfig | None = Field(
        default=None, description="the two models; left out when activations come from files"
    )
    text: TextConfig | None = Field(default=None, description="what both models read")
    tokens: TokenPolicy = Field(default=TokenPolicy(), description="which tokens are left out")
    activations: ActivationsConfig = Field(
        default=CachedActivations(), description="where activations come from"
    )
    survey: SurveyConfig = Field(
        default=SurveyConfig(), description="what is looked at before any dictionary"
    )
    crosscoder: DictionaryConfig = Field(default=DictionaryConfig(), description="the dictionary")
    training: TrainingConfig = Field(default=TrainingConfig(), description="how it is trained")
    controls: ControlsConfig = Field(default=ControlsConfig(), description="what claims are measured against")
    analysis: AnalysisConfig = Field(default=AnalysisConfig(), description="how it is read")
    behaviors: tuple[Path, ...] = Field(
        default=(),
        description="YAML files of behaviors whose shift is measured and attributed after the analysis",
    )
    wandb: WandbConfig = Field(default=WandbConfig(), description="Weights & Biases")
    seed: int = Field(default=0, ge=0, description="every random choice follows from it")
    threads: Count | None = Field(default=None, description="CPU threads; none leaves torch's own choice")

    @model_validator(mode="after")
    def _check(self) -> Self:
        from_files = isinstance(self.activations, FileActivations)
        kind = self.crosscoder.sparsity.kind
        if self.training.difference_weight and self.crosscoder.reads != "paired":
            raise ValueError(
                f"training.difference_weight needs crosscoder.reads: paired, found {self.crosscoder.reads!r}"
            )
        if self.training.step == "sparse" and kind not in ("batch_topk", "topk"):
            raise ValueError(
                f"training.step is 'sparse', but {kind} does not decide how many latents fire; use 'auto' or 'dense'"
            )
        self._check_snapshots()
        if from_files and (self.pair or self.text):
            raise ValueError("activations come from files, so pair and text have no effect; remove them")
        if not from_files and self.pair is None:
            raise ValueError("pair is missing; name the two models, or give activations of kind files")
        if not from_files and self.text is None:
            raise ValueError("text is missing; name at least one source")
        return self

    def _check_snapshots(self) -> None:
        if not (n := self.n_snapshots):
            return
        dictionary = self.crosscoder
        if dictionary.reads != "paired":
            raise ValueError(
                f"crosscoder.reads is {dictionary.reads!r}, which reads two models, but there are {n} snapshots between them; "
                "use 'paired', or remove the snapshots"
            )
        if (n + 2) * dictionary.exclusive + dictionary.tied > 1:
            raise ValueError(
                f"crosscoder.exclusive {dictionary.exclusive:g} for each of {n + 2} models and tied {dictionary.tied:g} are more "
                "than all latents"
            )

    @property
    def n_snapshots(self) -> int:
        """Checkpoints between the reference and the intervened model."""
        if isinstance(self.activations, FileActivations):
            return len(self.activations.snapshots)
        return len(self.pair.snapshots) if self.pair else 0
