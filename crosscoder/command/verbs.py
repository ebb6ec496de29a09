"""How a function becomes a verb of the command."""

import errno
import functools
import sys
from collections.abc import Callable

import typer

from ..errors import CrosscoderError, one_line
from ..runtime.replacement import no_space
from .ranks import lead_or_assist, rank_and_size

_REFUSED_BY_THE_SYSTEM = frozenset(
    {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
)


def verb(
    function: Callable[..., None], of: typer.Typer, name: str | None = None, alone_with: str | None = None
) -> Callable[..., None]:
    """Register `function` as a verb of an app, called `name` or like the function. A `CrosscoderError`, a full disk, and a path that
    the file system refuses, prints one line and exits with 2, an interrupt with 130. Under torchrun, ranks share the work.

    Args:
        alone_with: An option that makes each rank carry out the verb by itself.
    """

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            if alone_with is not None and kwargs[alone_with] is not None:
                function(*args, **kwargs)
            else:
                lead_or_assist(lambda: function(*args, **kwargs))
        except CrosscoderError as error:
            _say(str(error))
            raise typer.Exit(2) from None
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            _say(one_line(reason))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            _say("interrupted; run the same command again to continue")
            raise typer.Exit(130) from None

    return of.command(name=name or function.__name__)(guarded)


def _say(line: str) -> None:
    """Print why the verb ends, with the rank under torchrun."""
    try:
        rank, size = rank_and_size()
    except CrosscoderError:  # which is what the line says
        rank, size = 0, 1
    print(f"crosscoder: rank {rank}: {line}" if size > 1 else f"crosscoder: {line}", file=sys.stderr)


def _reason(error: Exception) -> str | None:
    """Return what the system refuses, whatever the code does; None if the error is a bug. A missing file may be one."""
    # Libraries write, too. Files of the run name themselves (`runtime.replacement`).
    if no_space(error):
        return f"the disk is full ({error}); free some space and run the same command again"
    if isinstance(error, OSError) and error.errno in _REFUSED_BY_THE_SYSTEM:
        return f"{error.filename}: {error.strerror}; name another path"
    return None
