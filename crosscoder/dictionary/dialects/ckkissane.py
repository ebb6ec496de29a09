"""crosscoder-model-diff-replication by ckkissane (Kissane et al. 2024) and its forks: a ReLU crosscoder with an L1 penalty.

    cfg.json + cc_weights.pt, or N_cfg.json + N.pt
    W_enc [model, d_model, latent]   W_dec [latent, model, d_model]   b_enc [latent]   b_dec [model, d_model]

Activations were multiplied by one factor per model before the training, which is stored nowhere; the factors of the published
Gemma crosscoder stand in its demo notebook.
"""

from typing import Any

from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import RELU, ForeignWeights, assemble
from .dialect import Dialect, Reading, described
from .dictionary_files import SourceFiles
from .open_questions import Questions

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}


def _settings(files: SourceFiles) -> dict[str, Any]:
    weights = files.weights("cc_weights.pt")
    return files.settings("cfg.json", *([f"{weights.removesuffix('.pt')}_cfg.json"] if weights else []))


def recognizes(files: SourceFiles) -> bool:
    """Whether there are the four tensors of a crosscoder, and settings with an L1 coefficient."""
    shapes = files.shapes(files.weights("cc_weights.pt"))
    return shapes.keys() == KEYS and len(shapes["W_enc"]) == 3 and "l1_coeff" in _settings(files)


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read the crosscoder. Raises ConfigError if the order of models or the normalization is not given."""
    name = files.required_weights("cc_weights.pt")
    tensors, settings = files.tensors(name), _settings(files)
    n_models, d_model, n_latents = tensors["W_enc"].shape
    refuse_other_tensors(files, tensors, KEYS)
    refuse_contradictions(files, settings, d_in=d_model, dict_size=n_latents)
    mean, scale = questions.normalization(
        n_models, d_model, "the file does not say by what activations were multiplied before the training"
    )
    weights = ForeignWeights(
        encoder=tensors["W_enc"],
        encoder_bias=tensors["b_enc"],
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        sparsity=RELU,
        mean=mean,
        scale=scale,
    )
    return Reading(
        assemble(weights, questions), described(settings, "model_name", "hook_point", "site", "l1_coeff")
    )


DIALECT = Dialect("ckkissane", recognizes, read)
