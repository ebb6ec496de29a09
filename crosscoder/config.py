"""Every setting of a run, as frozen pydantic models that refuse unknown keys.

A YAML file holds one `RunConfig`; `settings.load_config` reads it. The description of each field is its documentation:
the reference in the README and the messages about a wrong value are made from it. Nothing here imports torch.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# --- the pair ---------------------------------------------------------------------------------------------------------


class ModelSource(Settings):
    """A checkpoint that transformers can load."""

    model: str = Field(description="folder or hub id of the checkpoint")
    revision: str | None = Field(
        default=None, description="hub revision; a commit hash makes the run repeatable"
    )
    dtype: Dtype = Field(default="bfloat16", description="precision the model runs in")


class AdapterSource(Settings):
    """A PEFT adapter on the reference: one set of base weights, adapter off and on."""

    adapter: str = Field(description="folder or hub id of a PEFT adapter for the reference model")


class Message(Settings):
    """One message of a chat."""

    role: str = Field(description="who speaks, e.g. system, user or assistant")
    content: str = Field(description="what is said")


class ContextSource(Settings):
    """The reference itself, after a context: the in-context intervention."""

    context: str | tuple[Message, ...] = Field(
        description="text, or chat messages (a system prompt, examples), that stand before every document in the intervened model; "
        "the weights and the tokens that are compared are the reference's"
    )

    @field_validator("context")
    @classmethod
    def _says_something(cls, value: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if not (value.strip() if isinstance(value, str) else value):
            raise ValueError("is empty; give text, or chat messages")
        return value


class PairConfig(Settings):
    """The two models, what lies between them, and where all are read."""

    reference: ModelSource = Field(description="the model before the intervention")
    intervened: ModelSource | AdapterSource | ContextSource = Field(
        description="the model after it: a checkpoint, an adapter, or a context before the same tokens"
    )
    snapshots: tuple[ModelSource | AdapterSource, ...] = Field(
        default=(),
        description="checkpoints between the two, in their order in time, for one dictionary over the whole course of the "
        "intervention; read at `hookpoint`. They may differ in width, but then the cosine to the reference, the share of the "
        "change and the alarm are undefined for them",
    )
    hookpoint: str = Field(description="module path whose output is read, e.g. model.layers.15")
    intervened_hookpoint: str | None = Field(
        default=None, description="module path in the intervened model, where it differs"
    )
    align: Literal["none", "characters"] = Field(
        default="none",
        description="what to do where the tokenizers differ. none: refuse the pair; characters: each model reads the text in its own "
        "tokens, and they are compared at the tokens that end at the same character",
    )
    device: Device = Field(
        default="auto", description="where the models run; auto takes a GPU when there is one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.align != "none" and not isinstance(self.intervened, ModelSource):
            kind = "an adapter" if isinstance(self.intervened, AdapterSource) else "a context"
            raise ValueError(
                f"align is {self.align!r}, but a model with {kind} has the reference's tokenizer; remove align"
            )
        if self.align != "none" and self.snapshots:
            raise ValueError(
                f"align is {self.align!r}, which aligns two models, but there are {len(self.snapshots)} snapshots between them; "
                "remove snapshots, or give checkpoints with one tokenizer and remove align"
            )
        if self.snapshots and isinstance(self.intervened, ContextSource):
            raise ValueError(
                f"{len(self.snapshots)} snapshots between a model and itself after a context, where there is nothing in between; "
                "remove snapshots"
            )
        return self


# --- text and tokens --------------------------------------------------------------------------------------------------


class TextSource(Settings):
    """One JSON-lines file: objects with `text`, or with chat `messages`. A .txt file is one document a paragraph."""

    path: Path = Field(description="the file (.jsonl or .txt)")
    name: str = Field(description="short name used in tables, e.g. chat")
    limit: Count | None = Field(default=None, description="read at most this many documents")


class TextConfig(Settings):
    """What both models read."""

    sources: tuple[TextSource, ...] = Field(
        min_length=1, description="files, read in this order and then shuffled"
    )
    max_length: Count = Field(default=256, description="tokens a document is cut to")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents of each source that is never trained on"
    )


class TokenPolicy(Settings):
    """Which tokens are left out of training and analysis, and which are only marked."""

    mask_special: bool = Field(
        default=True, description="leave out BOS, EOS, padding and the tokenizer's special tokens"
    )
    mask_first: int = Field(
        default=1,
        ge=0,
        description="leave out this many positions at the start of a document (attention sinks)",
    )
    mask_repeated: bool = Field(
        default=True,
        description="leave out a token whose whole prefix occurred in an earlier document, e.g. the default system prompt: "
        "its activations are the same ones again, and must not be on both sides of the held-out split",
    )
    outlier_multiple: PositiveFloat = Field(
        default=10.0,
        description="leave out tokens whose norm in either model exceeds this multiple of its median norm",
    )


# --- activations ------------------------------------------------------------------------------------------------------


class CachedActivations(Settings):
    """Activations of both models on disk, read back through a memory map."""

    kind: Literal["cache"] = "cache"
    dtype: Dtype = Field(default="bfloat16", description="precision on disk")
    shard_tokens: Count = Field(default=32768, description="tokens a shard file holds")
    batch_tokens: Count = Field(default=8192, description="tokens, padding included, of one forward pass")


class StreamedActivations(Settings):
    """Activations computed while training, through a shuffle buffer; only the held-out ones go to disk."""

    kind: Literal["stream"] = "stream"
    dtype: Dtype = Field(default="bfloat16", description="precision of the buffer and of the held-out shards")
    buffer_tokens: Count = Field(default=131072, description="tokens shuffled together")
    shard_tokens: Count = Field(default=32768, description="tokens a held-out shard file holds")
    batch_tokens: Count = Field(default=8192, description="tokens, padding included, of one forward pass")


class FileActivations(Settings):
    """Activations that are already there: one array `[token, d_model]` for each model (.npy or .safetensors)."""

    kind: Literal["files"] = "files"
    reference: Path = Field(description="array [token, d_model] of the reference")
    intervened: Path = Field(description="array [token, d_model] of the intervened model, same tokens")
    snapshots: tuple[Path, ...] = Field(
        default=(),
        description="arrays [token, d_model] of checkpoints between the two, in their order in time, same tokens",
    )
    documents: Path | None = Field(
        default=None,
        description="integer array [token]: which document a token is from; without it, blocks of 256 rows",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the documents that is never trained on"
    )


ActivationsConfig = Annotated[
    CachedActivations | StreamedActivations | FileActivations, Field(discriminator="kind")
]


# --- the dictionary ---------------------------------------------------------------------------------------------------


class BatchTopK(Settings):
    """Keep the n·k largest scores of a batch of n tokens; at inference a calibrated threshold takes its place."""

    kind: Literal["batch_topk"] = "batch_topk"
    k: Count = Field(description="average number of latents that fire on a token")


class TopK(Settings):
    """Keep the k largest scores of every token."""

    kind: Literal["topk"] = "topk"
    k: Count = Field(description="number of latents that may fire on a token")


class ReLU(Settings):
    """ReLU latents with an L1 penalty weighted by the sum of the decoder norms, steered to a target L0."""

    kind: Literal["relu"] = "relu"
    target_l0: PositiveFloat = Field(description="L0 that the controller of the penalty steers to")
    coefficient: PositiveFloat = Field(default=0.5, description="penalty weight the controller starts from")


class JumpReLU(Settings):
    """JumpReLU latents with a tanh penalty (Anthropic, January 2025 update), steered to a target L0."""

    kind: Literal["jumprelu"] = "jumprelu"
    target_l0: PositiveFloat = Field(description="L0 that the controller of the penalty steers to")
    coefficient: PositiveFloat = Field(default=1.0, description="penalty weight the controller starts from")
    initial_threshold: PositiveFloat = Field(default=0.1, description="threshold every latent starts from")
    bandwidth: PositiveFloat = Field(default=2.0, description="width of the straight-through estimator")
    tanh_scale: PositiveFloat = Field(default=4.0, description="steepness of the tanh penalty")
    dead_coefficient: Annotated[float, Field(ge=0)] = Field(
        default=3e-6, description="weight of the term that pulls latents below their threshold up"
    )


SparsityConfig = Annotated[BatchTopK | TopK | ReLU | JumpReLU, Field(discriminator="kind")]


def _check_k(sparsity: SparsityConfig, n_latents: int) -> None:
    if isinstance(sparsity, BatchTopK | TopK) and sparsity.k > n_latents:
        raise ValueError(
            f"sparsity.k is {sparsity.k}, larger than n_latents {n_latents}; give a k of at most n_latents"
        )


class CrosscoderConfig(Settings):
    """What a crosscoder is, apart from its weights. Stored beside them."""

    d_models: tuple[Count, ...] = Field(min_length=1, description="width of each model on the axis")
    model_names: tuple[str, ...] = Field(description="names on the model axis, e.g. reference, intervened")
    n_latents: Count = Field(description="size of the dictionary")
    sparsity: SparsityConfig
    n_exclusive: int = Field(default=0, ge=0, description="latents of each model that see and write it alone")
    n_tied: int = Field(default=0, ge=0, description="latents with one decoder direction for all models")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_names) != len(self.d_models):
            raise ValueError(f"{len(self.model_names)} model_names for {len(self.d_models)} d_models")
        _check_k(self.sparsity, self.n_latents)
        bound = self.n_exclusive * len(self.d_models) + self.n_tied
        if bound > self.n_latents:
            raise ValueError(f"{bound} exclusive and tied latents, but there are only {self.n_latents}")
        if self.n_tied and len(set(self.d_models)) > 1:
            raise ValueError(f"tied latents need models of equal width, found {self.d_models}")
        return self

    @property
    def width(self) -> int:
        """Sum of the widths of all models."""
        return sum(self.d_models)


class DictionaryConfig(Settings):
    """The dictionary to train; the widths come from the activations."""

    reads: Literal["paired", "pooled", "difference"] = Field(
        default="paired",
        description="paired: a crosscoder on both models; pooled: a shared-dictionary SAE, each model's tokens encoded "
        "alone; difference: a diff-SAE on intervened - reference",
    )
    n_latents: Count = Field(default=4096, description="size of the dictionary")
    sparsity: SparsityConfig = Field(default=BatchTopK(k=32), description="what keeps the code sparse")
    decoder_norm: PositiveFloat = Field(default=1.0, description="norm of a fresh decoder row, per model")
    exclusive: Share = Field(
        default=0.0,
        description="share of the latents, for each model, that see and write it alone (Jiralerspong & Bricken 2026)",
    )
    tied: Share = Field(
        default=0.0,
        description="share of the latents with one decoder direction for both models (Anthropic 2025, designated shared)",
    )
    nested: tuple[Share, ...] = Field(
        default=(),
        description="shares of the latents that have to rebuild the activations alone as well, e.g. [0.06, 0.25] "
        "(Matryoshka: Bussmann et al. 2025)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_k(self.sparsity, self.n_latents)
        if self.reads != "paired" and (self.exclusive or self.tied):
            raise ValueError(f"exclusive and tied latents need reads: paired, found {self.reads!r}")
        if 2 * self.exclusive + self.tied > 1:
            raise ValueError(
                f"exclusive {self.exclusive:g} for each of two models and tied {self.tied:g} are more than all latents"
            )
        if list(self.nested) != sorted(set(self.nested)) or not all(0 < share < 1 for share in self.nested):
            raise ValueError(f"nested shares must rise between 0 and 1, found {list(self.nested)}")
        return self


# --- training ---------------------------------------------------------------------------------------------------------


class AuxiliaryConfig(Settings):
    """AuxK: dead latents are asked to explain what the others leave over (Gao et al. 2024, section 2)."""

    coefficient: Annotated[float, Field(ge=0)] = Field(
        default=1 / 32, description="weight of the term; 0 switches it off"
    )
    k: Count = Field(default=256, description="dead latents used for one token, at most")
    dead_after_tokens: Count = Field(
        default=200_000, description="a latent is dead after this many tokens without firing"
    )


class TrainingConfig(Settings):
    """How the dictionary is trained."""

    n_tokens: Count = Field(
        default=2_000_000, description="token presentations in all; data is passed over repeatedly"
    )
    batch_tokens: Count = Field(default=2048, description="tokens of one step")
    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate of Adam")
    warmup: Share = Field(default=0.05, description="share of the steps with a rising learning rate")
    decay: Share = Field(
        default=0.3, description="share of the steps, at the end, with a falling learning rate"
    )
    k_anneal: Share = Field(
        default=0.2, description="share of the steps over which k falls from k_start_multiple * k to k"
    )
    k_start_multiple: Annotated[float, Field(ge=1)] = Field(
        default=4.0, description="k at the first step, as a multiple"
    )
    gradient_clip: PositiveFloat = Field(default=1.0, description="largest norm of the gradient")
    auxiliary: AuxiliaryConfig = Field(default=AuxiliaryConfig(), description="revival of dead latents")
    difference_weight: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="weight of the error of intervened - reference beside those of the models (Kassem et al. 2026); none: 3 for a "
        "crosscoder on models of equal width, otherwise 0",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the matrix products; weights stay float32. auto: bfloat16 where the hardware has units for it",
    )
    step: Literal["auto", "dense", "sparse"] = Field(
        default="auto",
        description="dense: matrix products of the whole code; sparse: the encoder's product, then only the latents that "
        "fire; auto: the faster one, by a rule that `crosscoder bench` measured",
    )
    device: Device = Field(default="auto", description="where the dictionary is trained")
    start_from: Path | None = Field(
        default=None,
        description="folder of a dictionary to begin from, e.g. RUN/crosscoder, for stage-wise fine-tuning over checkpoints; of the "
        "same shape, or of fewer models, whose new neighbors then begin as the reference. Set k_anneal to 0 to begin at its "
        "loss. Controls begin afresh",
    )
    log_every: Count = Field(default=20, description="steps between two lines of metrics")
    evaluate_every: Count = Field(default=200, description="steps between two looks at held-out tokens")
    checkpoint_every: Count = Field(default=200, description="steps between two resumable checkpoints")
    calibration_tokens: Count = Field(
        default=32768,
        description="held-out tokens the inference threshold is set on, and training tokens the normalization is",
    )


# --- analysis ---------------------------------------------------------------------------------------------------------


class LabelRule(Settings):
    """The rule behind every label. Norms alone never decide."""

    weak_norm: Share = Field(
        default=0.5, description="new and lost: the weaker decoder norm is at most this share of the stronger"
    )
    nu_error: Share = Field(
        default=0.2, description="new and lost: upper bound on nu of the error (Minder et al. 2025)"
    )
    nu_reconstruction: Share = Field(
        default=0.5, description="new and lost: upper bound on nu of the reconstruction"
    )
    rotated_cosine: Share = Field(default=0.8, description="rotated: decoder cosine below this")
    shared_cosine: Share = Field(default=0.9, description="shared and rescaled: decoder cosine above this")
    shared_ratio: Share = Field(
        default=0.7,
        description="shared: weaker decoder norm at least this share of the stronger; rescaled: below it",
    )
    rate_ratio: Annotated[float, Field(ge=1)] = Field(
        default=1.5,
        description="reweighted (a shared-dictionary SAE): one model fires at least this many times as often, interval included",
    )
    false_discovery_rate: Share = Field(
        default=0.05,
        description="new and lost: upper bound on the q-value; above it a latent stays undetermined",
    )
    min_documents: Count = Field(
        default=5, description="a latent seen in fewer held-out documents stays undetermined"
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.95, description="of all intervals")


class FiringRuleConfig(Settings):
    """A short rule for where a latent fires, learnt on half of the held-out documents and scored on the other half."""

    latents: int = Field(
        default=256,
        ge=0,
        description="latents that get one: those whose label claims a change and those that behaviors name, then by their share of "
        "the shift; 0 leaves rules out",
    )
    items: Count = Field(default=12, description="tokens that a rule names, at most")
    tokens: Count = Field(
        default=200_000, description="held-out tokens that rules are learnt and scored on, about, at most"
    )


class AnalysisConfig(Settings):
    """How the dictionary is read."""

    rule: LabelRule = Field(default=LabelRule(), description="the rule behind every label")
    firing_rule: FiringRuleConfig = Field(
        default=FiringRuleConfig(), description="the rule for where a latent fires"
    )
    top_examples: Count = Field(default=12, description="strongest examples kept for each latent")
    quantile_examples: int = Field(
        default=8, ge=0, description="examples spread over the activation quantiles"
    )
    context_tokens: Count = Field(default=24, description="tokens shown on each side of an example's peak")
    logit_tokens: Count = Field(default=12, description="tokens at each end of a logit table")
    bootstrap_samples: Count = Field(default=1000, description="resamples of documents behind every interval")
    bootstrap_blocks: Count = Field(default=64, description="groups of documents that are resampled together")
    alarm_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description="chance that the alarm rings at a checkpoint that differs from the one before by nothing (needs snapshots)",
    )


class SurveyConfig(Settings):
    """What the models differ in before any dictionary: whole forward passes of both over some held-out documents."""

    documents: int = Field(default=48, ge=0, description="held-out documents that are read; 0 leaves it out")


class ControlsConfig(Settings):
    """Other dictionaries that a run's claims are measured against. All but `runs` are trained beside the run's own; each costs a
    training, `identity` and `shuffled` a tenth of one. Of a run with snapshots, seeds read all models, as another run would; the
    other controls read its two ends alone, so that they bear on what is new or lost at the end, not on when."""

    drift: bool = Field(
        default=True,
        description="a null: a pair that differs as much and in no feature; from it come the q-values and the number of false "
        "labels to expect",
    )
    identity: bool = Field(
        default=True,
        description="the reference against itself: whether anything is found where nothing changed",
    )
    shuffled: bool = Field(
        default=True,
        description="tokens of one model beside other tokens of the other: whether everything is found where nothing is shared",
    )
    seeds: int = Field(
        default=0,
        ge=0,
        description="further seeds, to see which latents are found again; 2 or more say something",
    )
    difference: bool = Field(
        default=False,
        description="a diff-SAE, to see which claimed directions another method finds, and one on a difference without structure, "
        "to see whether to believe it",
    )
    workers: Count | None = Field(
        default=None,
        description="controls trained side by side; none: as many as threads and memory allow, where it is worth it (on a CPU, "
        "from activations on disk)",
    )
    runs: tuple[Path, ...] = Field(
        default=(),
        description="finished runs of the same recipe on pairs whose change carries nothing of interest (a benign fine-tuning): "
        "nulls beside `drift`",
    )


class WandbConfig(Settings):
    """Logging to Weights & Biases. metrics.jsonl is written whatever this says."""

    mode: Literal["disabled", "offline", "online"] = Field(
        default="disabled", description="WANDB_MODE overrides it"
    )
    project: str = Field(default="crosscoder", description="wandb project")
    entity: str | None = Field(default=None, description="wandb entity; none is wandb's own default")
    name: str | None = Field(default=None, description="run name; none lets wandb choose")
    group: str | None = Field(default=None, description="wandb group")
    tags: tuple[str, ...] = Field(default=(), description="wandb tags")
    log_weights: bool = Field(default=True, description="keep the trained weights as an artifact")
    log_report: bool = Field(default=True, description="keep the report and the page as artifacts")


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
