"""Where a dictionary that another tool trained comes from, and what its files do not say."""

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .block import Settings


class DictionarySource(Settings):
    """A dictionary of another tool: where its files are, and the answers to what they do not say.

    An answer is asked for where the files leave it open, and refused where they do not, so that nothing is guessed.
    """

    source: str = Field(
        description="folder, file or Hub id (org/name) of the dictionary; saelens:RELEASE/SAE_ID for a release that SAELens knows; "
        "wandb:ENTITY/PROJECT/NAME:VERSION for an artifact of a run"
    )
    dialect: str = Field(default="auto", description="the tool that wrote it; auto: recognized by its files")
    revision: str | None = Field(
        default=None,
        description="branch, tag or commit on the Hub; null: the newest commit, which is recorded",
    )
    subfolder: str | None = Field(default=None, description="folder inside the source, e.g. of one hookpoint")
    models: tuple[str, ...] | None = Field(
        default=None,
        description="models on the model axis of the file, in the file's order, e.g. [reference, intervened]",
    )
    reads: Literal["pooled", "difference"] | None = Field(
        default=None,
        description="what a dictionary of one model reads. pooled: activations of one model at a time; difference: a difference of two "
        "models",
    )
    direction: Literal["intervened-reference", "reference-intervened"] | None = Field(
        default=None, description="sign of the difference that a diff-SAE reads"
    )
    normalization: str | None = Field(
        default=None,
        description="what was done to activations before the dictionary. none; or centered, if their mean over dimensions was removed at each "
        "token; or numbers separated by commas, one for each model of the "
        "file, by which its activations were multiplied; or a safetensors file with mean [model, d_model] and std [model, d_model] or "
        "scale [model], for (x - mean) / std or (x - mean) * scale",
    )
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="inference threshold of a BatchTopK dictionary that stores none"
    )
    uncalibrated: bool = Field(
        default=False,
        description="take a BatchTopK dictionary without a threshold, which has to be calibrated on activations before use; a run does so",
    )
    activation: Literal["topk", "batch_topk"] | None = Field(
        default=None, description="kind of activation function, where two kinds are stored alike"
    )
    code_normalization: Literal["CROSSCODER", "SAE", "NONE"] | None = Field(
        default=None,
        description="what weighted the latents in crosscoder_learning, if a file is too old to say",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        """A name or a path alone is the source."""
        return {"source": str(value)} if isinstance(value, str | PurePath) else value
