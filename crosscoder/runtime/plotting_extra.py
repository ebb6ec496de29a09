"""matplotlib is an extra: whether it is there is asked before any work that ends in a figure."""

from ..errors import ResourceError


def require_matplotlib(needed_by: str, otherwise: str = "") -> None:
    """See that figures can be drawn.

    Args:
        needed_by: What needs them, for the message.
        otherwise: What would do without.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        rest = f", or {otherwise}" if otherwise else ""
        raise ResourceError(
            f"matplotlib: not installed, and {needed_by} needs it; pip install 'crosscoder[plots]'{rest}"
        ) from None
