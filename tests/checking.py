"""The checker behind every annotation while tests run: beartype, which by itself cannot read `Self` on a method."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
"""Decorator named in pyproject.toml's `--jaxtyping-packages`."""
