"""The runtime type checker for annotations during tests: beartype, configured to accept `Self` on methods."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
"""Decorator that `--jaxtyping-packages` in the Makefile names: a plain name, because with a call the option checks the first package alone."""
