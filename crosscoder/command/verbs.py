"""How a function becomes a verb of the command."""

import errno
import functools
import sys
from collections.abc import Callable

import typer

from ..errors import CrosscoderError, one_line
from ..runtime.replacement import no_space

_REFUSED_BY_THE_SYSTEM = frozenset(
    {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
)


def verb(function: Callable[..., None], of: typer.Typer, name: str | None = None) -> Callable[..., None]:
    """Register `function` as a verb of an app, called `name` or like the function. A `CrosscoderError`, a full disk, and a path that
    the file system refuses, prints one line and exits with 2, an interrupt with 130."""

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except CrosscoderError as error:
            print(f"crosscoder: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            print(one_line(f"crosscoder: {reason}"), file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("crosscoder: interrupted; run the same command again to continue", file=sys.stderr)
            raise typer.Exit(130) from None

    return of.command(name=name or function.__name__)(guarded)


def _reason(error: Exception) -> str | None:
    """Return what the system refuses, whatever the code does; None if the error is a bug. A missing file may be one."""
    # Libraries write, too. Files of the run name themselves (`runtime.replacement`).
    if no_space(error):
        return f"the disk is full ({error}); free some space and run the same command again"
    if isinstance(error, OSError) and error.errno in _REFUSED_BY_THE_SYSTEM:
        return f"{error.filename}: {error.strerror}; name another path"
    return None
