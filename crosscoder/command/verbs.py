"""How a function becomes a verb of the command."""

import functools
import sys
from collections.abc import Callable

import typer

from ..errors import CrosscoderError


def verb(function: Callable[..., None], of: typer.Typer) -> Callable[..., None]:
    """Register `function` as a verb of an app. A `CrosscoderError` prints one line and exits with 2, an interrupt with 130."""

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except CrosscoderError as error:
            print(f"crosscoder: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("crosscoder: interrupted; run the same command again to continue", file=sys.stderr)
            raise typer.Exit(130) from None

    return of.command(name=function.__name__)(guarded)
