"""Checks for matplotlib, an optional dependency, before any work that ends in a figure."""

from ..errors import ResourceError


def require_matplotlib(needed_by: str, alternative: str = "") -> None:
    """Check that matplotlib is installed.

    Args:
        needed_by: What needs it, for the message.
        alternative: How to proceed without it, for the message.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        rest = f", or {alternative}" if alternative else ""
        raise ResourceError(
            f"matplotlib: not installed, but {needed_by} needs it; pip install 'crosscoder[plots]'{rest}"
        ) from None
