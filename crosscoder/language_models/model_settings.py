"""The entries of a model's configuration that affect activations: the same weights compute something else with another scale of RoPE."""

from typing import Any

_WITHOUT_EFFECT = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range", "pad_token_id",
        "quantization_config", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Names, what training, generation or loading reads, and what is compared on its own: precision and quantization."""


def settings_of(model: Any) -> dict[str, Any]:
    """Return the entries of a loaded model's configuration that affect activations."""
    # Entries with a default value are left out, so that a release of transformers that adds one changes nothing.
    return _without(model.config.to_diff_dict())


def _without(entries: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): _without(entry) if isinstance(entry, dict) else entry
        for name, entry in entries.items()
        if name not in _WITHOUT_EFFECT
    }
