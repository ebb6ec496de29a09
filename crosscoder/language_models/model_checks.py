"""Checks of a checkpoint: that its files fit its config.json, and that it is a causal language model."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from ..errors import PairError
from .decoder_layers import vocabulary_size
from .hooks import forward
from .load_errors import naming_settings, reading
from .module_patterns import check_patterns, quantization_patterns

# Largest sizes that a config.json may name, far above those of any model.
_LARGEST = {"num_hidden_layers": 1_000, "vocab_size": 10**8, "hidden_size": 10**6, "intermediate_size": 10**7}

TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest median relative change of a token between two passes that compute the same. Rounding errors are several times smaller."""

# Without quantization a weight takes at least a byte; a tied weight may be counted twice.
_MOST_WEIGHTS_PER_BYTE = 2

_PROBE_TOKENS = 16


def check_weights(subject: str, info: dict[str, Any]) -> None:
    """Check that the files held every weight in its shape. Raises PairError."""
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PairError(
            f"{subject} has no weights for {missing[0]}{others}; they would be initialized at random; give a complete checkpoint of a causal "
            "language model"
        )
    if info["mismatched_keys"]:
        (name, stored, wanted), *more = sorted(info["mismatched_keys"], key=str)
        others = f" (and {len(more)} other weights)" if more else ""
        raise PairError(
            f"{subject}: {name} has shape {tuple(stored)} in the file, but {tuple(wanted)} by config.json{others}; give the config.json that "
            "belongs to these weights"
        )


def check_weight_files(subject: str, folder: Path, config: Any, auto: Any) -> None:
    """Check that the quantization is known, and that the weight files are large enough for the model in config.json, before memory is reserved.

    Raises:
        PairError: They are not.
    """
    quantization = getattr(config, "quantization_config", None)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    known = AUTO_QUANTIZATION_CONFIG_MAPPING
    if isinstance(quantization, dict) and not {method, f"{method}_4bit"} & known.keys():
        raise PairError(
            f"{subject}: quantization_config.quant_method in config.json is {method!r}, which transformers "
            f"{transformers.__version__} does not know; give the checkpoint before quantization"
        )
    files = [
        path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern) if path.is_file()
    ]
    if not (files or quantization) or type(config) not in auto._model_mapping:
        return
    with reading(subject), naming_settings(subject, config), torch.device("meta"):
        model = auto.from_config(config)
    if quantization is not None:
        check_patterns(subject, quantization_patterns(config), [name for name, _ in model.named_modules()])
        return
    weights = {id(weight): weight for weight in model.parameters()}
    n_weights, size = (
        sum(weight.numel() for weight in weights.values()),
        sum(path.stat().st_size for path in files),
    )
    if n_weights > _MOST_WEIGHTS_PER_BYTE * size:
        raise PairError(
            f"{subject}: the model in config.json has {n_weights:,} weights, but the weight files have {size:,} bytes; download the weights again, or "
            "give the config.json that belongs to them"
        )


def check_sizes(subject: str, config: Any) -> None:
    """Check that no size is absurd, because a model is built layer by layer before its weights are read. Raises PairError."""
    with reading(subject):
        text = config.get_text_config(decoder=True)
    for name, limit in _LARGEST.items():
        found = getattr(text, name, None)
        if isinstance(found, int) and not 0 < found <= limit:
            raise PairError(
                f"{subject}: {name} in config.json is {found:.4g}; a number from 1 to {limit:,} is possible"
            )


def auto_class(subject: str, config: Any, trust_remote_code: bool = False) -> Any:
    """Return the class of transformers that loads a causal language model, alone or in a model that also reads images.

    Raises:
        PairError: There is none.
    """
    if config.is_encoder_decoder:
        raise PairError(
            f"{subject} is an encoder-decoder model ({config.model_type}), which reads one text and writes another, so its tokens cannot be "
            "compared with those of a causal language model; give a decoder-only model"
        )
    if trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return AutoModelForCausalLM
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            return auto
    raise PairError(
        f"{subject} cannot be loaded: transformers has no causal language model of type {config.model_type!r}; give a decoder-only model"
    )


@torch.no_grad()
def check_causal(subject: str, model: nn.Module, device: torch.device) -> None:
    """Check that later tokens and other documents change no prediction, as they do in a masked language model. Raises PairError."""
    ids = (5 * torch.arange(3 * _PROBE_TOKENS, device=device).view(3, -1) + 1) % min(
        97, vocabulary_size(model)
    )
    common = _PROBE_TOKENS * 3 // 4
    ids[1, :common] = ids[0, :common]
    with reading(subject, "does not run"):
        together = forward(model, ids, torch.ones_like(ids, dtype=torch.bool)).logits[1, :common]
        alone = forward(model, ids[:1, :common], torch.ones_like(ids[:1, :common], dtype=torch.bool)).logits[
            0
        ]
    if together.isnan().any():
        raise PairError(
            f"{subject} predicts NaN; give a checkpoint that works in this dtype, or another dtype"
        )
    change = (together.float() - alone.float()).norm(dim=1) / alone.float().norm(dim=1).clamp_min(1e-30)
    quantized = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    # Quantized activations amplify rounding: two that fall on other sides of a limit differ by a whole level.
    dtype = torch.bfloat16 if quantized else alone.dtype
    if change.median() > TOLERANCES.get(dtype, TOLERANCES[torch.float32]):
        mend = "give a model that predicts each token from those before it"
        if quantized:
            mend += ", or another quantization: some quantize activations by all tokens of a pass"
        raise PairError(
            f"{subject} is no causal language model: later tokens or other documents change predictions by {float(change.median()):.1%}; {mend}"
        )
