"""Regular expressions for names of modules, in the settings of adapters and of quantized checkpoints.

peft and transformers search the name of every module for them, without a limit on their time. So each is tried here first.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from peft import PeftConfig

from ..config.messages import why_no_expression
from ..runtime.expressions import Expression, repeats_nothing

# Settings of adapters that are expressions, or whose keys are.
_ADAPTER_SETTINGS = "target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"


def adapter_patterns(config: PeftConfig) -> Iterator[str]:
    """Yield every text in the settings of an adapter that peft uses as a regular expression."""
    for name in _ADAPTER_SETTINGS:
        yield from _texts(getattr(config, name, None))


def quantization_patterns(config: Any) -> Iterator[str]:
    """Yield every text in the quantization settings of a checkpoint, any of which may be used as a regular expression."""
    yield from _texts(getattr(config, "quantization_config", None))


def check_patterns(subject: str, patterns: Iterator[str], names: Sequence[str]) -> None:
    """Check that expressions take no long time on any name of a module.

    Raises:
        DataError: One does.
    """
    for pattern in dict.fromkeys(patterns):
        # What uses a text that is no expression says so.
        if repeats_nothing(pattern) or why_no_expression(pattern) is not None:
            continue
        # As peft and transformers embed them.
        for embedded in (pattern, rf"^(?:(?:.*\.)?(?:{pattern}))$"):
            Expression(embedded, f"{subject}: the pattern {pattern[:60]!r} for modules").find_each(names)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.removeprefix("re:")
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _texts(name)
            yield from _texts(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _texts(entry)
