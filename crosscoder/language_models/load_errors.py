"""What transformers and peft raise while they read a user's files, as one line that names the setting and the file."""

import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError  # noqa: TID251 (the exception alone: torch raises it for what it refuses to unpickle)
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from ..errors import CrosscoderError, FormatError, PairError, ResourceError

_LONGEST_LINE = 300

# Quantizers raise ValueError or RuntimeError for some of the packages and devices that they lack.
_ABSENT = re.compile(
    r"pip install (?![^\n]*transformers)|\bnot installed|\bGPU is required|only supported on GPU|\b(?:requires?|needs?|No)\b.{0,40}\b(?:GPU|CUDA|XPU|accelerator)",
    re.IGNORECASE,
)

_ERROR = re.compile(r"[\w.]*Error: ")


def first_line(error: BaseException) -> str:
    """Return what an error says in one line, with the kind of error where it says little."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # torch and pydantic name the place in the first line, and what is wrong in the next.
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    line = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
    return (
        f"{type(error).__name__}: {line}"
        if isinstance(error, LookupError | TypeError | AttributeError)
        else line
    )


@contextmanager
def telling_conversions() -> Iterator[None]:
    """Say why weights cannot be quantized or converted: transformers logs a table, and raises an error that points to it.

    Raises:
        ImportError: A package is missing.
        RuntimeError: Anything else is wrong.
    """
    told: list[str] = []

    def keep_back(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "CONVERSION" not in message:
            return True
        told.extend(line for line in message.splitlines() if _ERROR.match(line))
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep_back)
    try:
        yield
    except RuntimeError as error:
        if not told:
            raise
        kind, _, reason = told[0].partition(": ")
        raise (ImportError if kind.endswith(("ImportError", "ModuleNotFoundError")) else RuntimeError)(
            f"its weights cannot be converted: {reason}"
        ) from error
    finally:
        logger.removeFilter(keep_back)


@contextmanager
def naming_settings(subject: str, config: Any) -> Iterator[None]:
    """Name the setting of config.json whose value transformers looks up in vain, such as an activation. Raises PairError."""
    try:
        yield
    except KeyError as error:
        value = error.args[0] if error.args else None
        names = [name for name, found in _flat(config.to_dict()) if isinstance(value, str) and found == value]
        if not names:
            raise
        raise PairError(
            f"{subject}: {names[0]} in config.json is {value!r}, which transformers {transformers.__version__} does not know"
        ) from error


def _flat(settings: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of every entry of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextmanager
def reading(subject: str, failure: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever transformers or peft raise while they read a user's files into one line.

    Any kind of exception counts: a config.json with other values than its class expects fails anywhere in their code.

    Args:
        subject: Setting and name of what is read.

    Raises:
        PairError: The files cannot be used.
        FormatError: A weight file is damaged.
        ResourceError: A package is not installed, or memory is short.
    """
    try:
        yield
    except CrosscoderError:
        raise
    except SafetensorError as error:
        raise FormatError(
            f"{subject}: a weight file is damaged ({first_line(error)}); download it again"
        ) from error
    except (UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        # What torch says here tells how to run code from the file.
        raise FormatError(
            f"{subject}: a weight file is damaged, or holds something else than tensors ({type(error).__name__}); download it again, or give "
            "weights in safetensors"
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(f"{subject} does not fit into memory: {first_line(error)}") from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise PairError(
                f"{subject} brings Python code of its own, which is not run; read it, and set trust_remote_code to true on this model if you "
                "trust it"
            ) from error
        if isinstance(error, ImportError) or _ABSENT.search(str(error)):
            raise ResourceError(
                f"{subject} needs what this machine does not have: {first_line(error)}"
            ) from error
        raise PairError(f"{subject} {failure}: {first_line(error)}") from error
