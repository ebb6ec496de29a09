"""The settings of a run: every section of its file, and the checks across sections."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from .activations import ActivationsConfig, CachedActivations, FileActivations
from .analysis import AnalysisConfig
from .block import Seed, Settings
from .controls import ControlsConfig
from .dictionary import DictionaryConfig
from .discovery import DiscoveryConfig
from .pair import ContextSource, PairConfig
from .text import TextConfig
from .tokens import TokenPolicy
from .training import TrainingConfig
from .wandb import WandbConfig


class SurveyConfig(Settings):
    """A comparison of the models before any dictionary: full forward passes of both on held-out documents."""

    documents: int = Field(
        default=48, ge=0, description="held-out documents to compare the models on; 0 skips the survey"
    )


class RunConfig(Settings):
    """One run: which models, which text, which dictionary, and where the results go."""

    output: Path = Field(description="run folder; created if missing")
    pair: PairConfig | None = Field(
        default=None, description="the models to compare; null when activations come from files"
    )
    text: TextConfig | None = Field(
        default=None, description="text that all models read; null when activations come from files"
    )
    tokens: TokenPolicy = Field(default=TokenPolicy(), description="which tokens are masked")
    activations: ActivationsConfig = Field(
        default=CachedActivations(), description="where activations come from"
    )
    survey: SurveyConfig = Field(
        default=SurveyConfig(), description="comparison of the models before any dictionary"
    )
    crosscoder: DictionaryConfig = Field(default=DictionaryConfig(), description="the dictionary to train")
    training: TrainingConfig = Field(default=TrainingConfig(), description="how the dictionary is trained")
    controls: ControlsConfig = Field(
        default=ControlsConfig(), description="dictionaries that claims are measured against"
    )
    analysis: AnalysisConfig = Field(default=AnalysisConfig(), description="how the dictionary is analyzed")
    behaviors: tuple[Path, ...] = Field(
        default=(),
        description="YAML files of behaviors whose shift is measured and attributed after the analysis",
    )
    discovery: DiscoveryConfig = Field(
        default=DiscoveryConfig(), description="search for changed behaviors that nobody named"
    )
    wandb: WandbConfig = Field(default=WandbConfig(), description="logging to Weights & Biases")
    seed: Seed = Field(default=0, description="seed of every random choice")
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="CPU threads; null: torch's default"
    )

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
                f"training.step is 'sparse', but {kind} does not fix the number of latents that fire; use 'auto' or 'dense'"
            )
        if self.training.step == "compiled" and self.training.latent_shards > 1:
            raise ValueError(
                f"training.step is 'compiled', but training.latent_shards is {self.training.latent_shards}: exchanges between processes are "
                "not compiled; use 'auto', 'dense' or 'sparse'"
            )
        self._check_snapshots()
        self._check_benign()
        if self.crosscoder.load is not None and self.training.start_from is not None:
            raise ValueError(
                "crosscoder.load trains nothing, so training.start_from has no effect; remove one of them"
            )
        if self.crosscoder.load is not None and self.pair is not None and self.pair.hookpoint is None:
            raise ValueError(
                "pair.hookpoint is null; name the hookpoint that the loaded dictionary was trained on"
            )
        if from_files and (self.pair or self.text):
            raise ValueError("activations come from files, so pair and text have no effect; remove them")
        if not from_files and self.pair is None:
            raise ValueError("pair is missing; name the two models, or give activations of kind files")
        if not from_files and self.text is None:
            raise ValueError("text is missing; name at least one source")
        if self.text is not None and self.text.answers and not self.discovery.prompts:
            raise ValueError(
                "text.answers lets the answers of `discover` join the text, but discovery.prompts is 0, so nothing is asked; give the number "
                "of prompts, or remove text.answers"
            )
        return self

    def _check_benign(self) -> None:
        """Check that the benign model of the search can be asked what the pair is asked."""
        if self.discovery.benign is None or self.pair is None:
            return
        if isinstance(self.pair.intervened, ContextSource):
            raise ValueError(
                "discovery.benign is a trained model, but pair.intervened is a context, which trains nothing; remove benign"
            )
        if self.pair.align != "none":
            raise ValueError(
                f"discovery.benign has to read the tokens of both models, but pair.align is {self.pair.align!r}; remove benign"
            )

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
                f"crosscoder.exclusive {dictionary.exclusive:g} for each of {n + 2} models and tied {dictionary.tied:g} add up to more "
                "than 1"
            )

    @property
    def n_snapshots(self) -> int:
        """Number of checkpoints between the reference and the intervened model."""
        if isinstance(self.activations, FileActivations):
            return len(self.activations.snapshots)
        return len(self.pair.snapshots) if self.pair else 0
