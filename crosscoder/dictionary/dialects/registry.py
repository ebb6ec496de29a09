"""All dialects, and which of them the files of a dictionary are in."""

from ...errors import ConfigError, FormatError, did_you_mean
from . import (
    ckkissane,
    crosscode,
    crosscoder_learning,
    dedicated_features,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    saelens,
    sparsify,
    unrepresentable,
)
from .dialect import Dialect
from .dictionary_files import SourceFiles

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        crosscoder_learning.DIALECT,
        ckkissane.DIALECT,
        saelens.DIALECT,
        sparsify.DIALECT,
        dictionary_learning.DIALECT,
        gemma_scope.DIALECT,
        llamascopium.DIALECT,
        dedicated_features.DIALECT,
        crosscode.DIALECT,
        unrepresentable.TIED,
        unrepresentable.CAUSAL,
    )
}
"""Every dialect by its name. Each recognizes its own files alone, so the order does not matter."""


def dialect_of(files: SourceFiles, name: str = "auto") -> Dialect:
    """Return the dialect called `name`, or the one that recognizes the files.

    Raises:
        ConfigError: There is no dialect of that name.
        FormatError: No dialect recognizes the files, or several do.
    """
    if name != "auto":
        if name not in DIALECTS:
            raise ConfigError(
                f"dialect: {name!r} is not known{did_you_mean(name, DIALECTS)}; use auto or one of {', '.join(DIALECTS)}"
            )
        return DIALECTS[name]
    found = [dialect for dialect in DIALECTS.values() if dialect.recognizes(files)]
    if len(found) == 1:
        return found[0]
    what = _listed("", files.names) if files.names else _listed("no files but the folders ", files.folders)
    if found:
        raise FormatError(
            f"{files.place}: {what}, which {' and '.join(dialect.name for dialect in found)} both recognize; name one with --from"
        )
    raise FormatError(
        f"{files.place}: {what}, which no dialect recognizes; name the folder of one dictionary (--subfolder), its file, or its dialect "
        f"(--from) among {', '.join(DIALECTS)}"
    )


def _listed(kind: str, names: tuple[str, ...]) -> str:
    """Return what a folder holds, the first eight names of it."""
    return (
        f"holds {kind}{', '.join(names[:8])}" + (", …" if len(names) > 8 else "")
        if names
        else "holds no files"
    )
