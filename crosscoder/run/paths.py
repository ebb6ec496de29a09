"""The path of every file of a run."""

from pathlib import Path


class RunPaths:
    """The paths of one run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """The record of inputs, versions, commands and durations."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def survey(self) -> Path:
        """The comparison of the models before any dictionary."""
        return self.path / "survey.json"

    @property
    def sweep(self) -> Path:
        """Folder of the dictionaries of a sweep, with its choice in sweep.json."""
        return self.path / "sweep"

    @property
    def crosscoder(self) -> Path:
        """Folder of the trained dictionary; loads on its own."""
        return self.path / "crosscoder"

    @property
    def linear_map(self) -> Path:
        """Linear maps between models that share no space (`crosscoder.activations.linear_map`); exists only for such pairs."""
        return self.path / "frame.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable training states."""
        return self.path / "checkpoints"

    @property
    def activations(self) -> Path:
        """Folder of activations on disk."""
        return self.path / "activations"

    @property
    def harvest_began(self) -> bool:
        """Whether activations, or a dictionary made of them, are on disk."""
        made = self.activations, self.checkpoints, self.crosscoder
        return any(folder.is_dir() and any(folder.iterdir()) for folder in made)

    @property
    def analysis(self) -> Path:
        """Folder of the analysis of the dictionary."""
        return self.path / "analysis"

    @property
    def features(self) -> Path:
        """One row per latent."""
        return self.analysis / "features.parquet"

    @property
    def examples(self) -> Path:
        """Examples of tokens that each latent fires on."""
        return self.analysis / "examples.parquet"

    @property
    def histograms(self) -> Path:
        """Histograms of the activations of each latent, by text source."""
        return self.analysis / "histograms.parquet"

    @property
    def trajectories(self) -> Path:
        """The course of each latent over the checkpoints; exists only with snapshots."""
        return self.analysis / "trajectories.parquet"

    @property
    def neighbors(self) -> Path:
        """The nearest latents of each latent, by direction."""
        return self.analysis / "neighbors.parquet"

    @property
    def rules(self) -> Path:
        """Rules that predict where a latent fires, with their scores, for the most important latents."""
        return self.analysis / "rules.parquet"

    @property
    def explanations(self) -> Path:
        """Folder of automated explanations: explanations.parquet and every reply."""
        return self.path / "explanations"

    @property
    def logits(self) -> Path:
        """Logit tables: the tokens that each latent promotes and suppresses, per model."""
        return self.analysis / "logits.parquet"

    @property
    def summary(self) -> Path:
        """Counts per label and quality of the dictionary."""
        return self.analysis / "summary.json"

    @property
    def behaviors(self) -> Path:
        """Folder with one subfolder per attributed behavior."""
        return self.path / "behaviors"

    @property
    def discovery(self) -> Path:
        """Folder of what was found without being told: findings.json, the answers of both models, and files of behaviors."""
        return self.path / "discovery"

    @property
    def findings(self) -> Path:
        """Behaviors that changed, found without being told."""
        return self.discovery / "findings.json"

    @property
    def transcripts(self) -> Path:
        """Both models' answers with their prompts, as documents; exists only with `text.answers`."""
        return self.discovery / "transcripts.jsonl"

    @property
    def report(self) -> Path:
        """Folder of report.json, and of report and appendix as Markdown and HTML."""
        return self.path / "report"

    @property
    def browser(self) -> Path:
        """Folder of the page, index.html."""
        return self.path / "browser"

    @property
    def plots(self) -> Path:
        """Folder of the figures and their numbers."""
        return self.path / "plots"

    @property
    def drift(self) -> Path:
        """The null pair that the control `drift` is trained on; in the folder of that control."""
        return self.path / "drift.safetensors"

    @property
    def wandb(self) -> Path:
        """Folder that wandb writes to."""
        return self.path / "wandb"
