"""How a function becomes a verb of the command."""

import errno
import functools
import sys
from collections.abc import Callable

import typer

from ..errors import CrosscoderError, one_line

_REFUSED_BY_THE_SYSTEM = frozenset(
    {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
)


def verb(function: Callable[..., None], of: typer.Typer) -> Callable[..., None]:
    """Register `function` as a verb of an app. A `CrosscoderError`, and a path that the file system refuses, prints one
    line and exits with 2, an interrupt with 130."""

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except CrosscoderError as error:
            print(f"crosscoder: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            # What the file system refuses whatever the code does. A missing file may be a bug, so it keeps its traceback.
            if error.errno not in _REFUSED_BY_THE_SYSTEM:
                raise
            print(
                one_line(f"crosscoder: {error.filename}: {error.strerror}; name another path"),
                file=sys.stderr,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("crosscoder: interrupted; run the same command again to continue", file=sys.stderr)
            raise typer.Exit(130) from None

    return of.command(name=function.__name__)(guarded)
