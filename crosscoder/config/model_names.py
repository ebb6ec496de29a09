"""Names of the models on the model axis, and their order in time."""

MODEL_NAMES = ("reference", "intervened")
"""The two models that are compared; the first two on every model axis."""


def model_names(n_models: int) -> tuple[str, ...]:
    """Return the names on the model axis: reference, intervened, then the snapshots, snapshot_1 the earliest."""
    return (*MODEL_NAMES, *(f"snapshot_{number}" for number in range(1, n_models - 1)))[:n_models]


def time_order(n_models: int) -> tuple[int, ...]:
    """Return the indices on the model axis in order of time: reference, snapshots, intervened."""
    return (0, *range(2, n_models), 1)[:n_models]
