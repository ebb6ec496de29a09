"""Names on the axis of models, and their order in time."""

MODEL_NAMES = ("reference", "intervened")
"""The two ends of what is compared; the first two models of every axis."""


def model_names(n_models: int) -> tuple[str, ...]:
    """Names on an axis of models: reference, intervened, and then the snapshots between them, snapshot_1 the earliest."""
    return (*MODEL_NAMES, *(f"snapshot_{number}" for number in range(1, n_models - 1)))[:n_models]


def time_order(n_models: int) -> tuple[int, ...]:
    """Places on the axis in the order of time: the reference, the snapshots, the intervened model."""
    return (0, *range(2, n_models), 1)[:n_models]
