"""Gemma Scope 1 and 2 (Lieberum et al. 2024; Google DeepMind 2025): JumpReLU SAEs of one model.

    1   params.npz                            W_enc [d_model, latent]   W_dec [latent, d_model]   b_enc   b_dec   threshold [latent]
    2   config.json + params.safetensors      the same in lower case; affine_skip_connection (transcoders)

Trained on scaled activations; the scale is folded into the published weights. The decoder bias is not subtracted from the input.
"""

from ...errors import FormatError
from .agreement import refuse_other_tensors
from .assembly import JUMPRELU, ForeignWeights, assemble
from .dialect import Dialect, Reading, described, transcoder
from .dictionary_files import SourceFiles
from .open_questions import Questions

KEYS = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
_SKIP = "affine_skip_connection"
FILES = ("params.npz", "params.safetensors")


def recognizes(files: SourceFiles) -> bool:
    """Whether the weights are params.npz, or params.safetensors with names in lower case."""
    name = files.weights(*FILES)
    found = files.shapes(name).keys()
    if name is not None and name.endswith(".npz"):
        return {key.lower() for key in found} == KEYS
    return found - {_SKIP} == KEYS


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read the SAE.

    Raises:
        ConfigError: What it reads is not given.
        FormatError: It is a transcoder.
    """
    name = files.required_weights(*FILES)
    tensors = {key.lower(): value for key, value in files.tensors(name).items()}
    settings = files.settings("config.json")
    ends = [settings.get(key) for key in ("hf_hook_point_in", "hf_hook_point_out")]
    if _SKIP in tensors or tensors["w_dec"].ndim != 2 or len({end for end in ends if end}) > 1:
        raise transcoder(files)
    refuse_other_tensors(files, tensors, KEYS)
    function = str(settings.get("architecture", "jump_relu"))
    if function.replace("_", "").lower() != "jumprelu":
        raise FormatError(
            f"{files.place}: its settings say architecture {function}, and its weights have thresholds of JumpReLU; take settings and weights "
            "of the same dictionary"
        )
    weights = ForeignWeights(
        encoder=tensors["w_enc"][None],
        encoder_bias=tensors["b_enc"],
        decoder=tensors["w_dec"][:, None],
        decoder_bias=tensors["b_dec"][None],
        sparsity=JUMPRELU,
        threshold=tensors["threshold"],
    )
    return Reading(assemble(weights, questions), described(settings, "model_name", "hf_hook_point_in"))


DIALECT = Dialect("gemma_scope", recognizes, read)
