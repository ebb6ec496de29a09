"""Where a dictionary that the run did not train comes from, and which controls it cannot have."""

from typing import Any

from .wording import Sentence, named, say


def loaded_from(record: dict[str, Any]) -> Sentence:
    """Return where a dictionary that was not trained by the run comes from, and which controls it cannot have."""
    revision = say(", revision {commit}", commit=named(record["revision"])) if record.get("revision") else ""
    controls = record["controls_not_available"]
    missing = (
        say(
            "; not available, because each needs a training like that of the dictionary: {controls}",
            controls=named(", ".join(controls)),
        )
        if controls
        else ""
    )
    calibrated = record["calibrated_tokens"]
    threshold = (
        say("; threshold calibrated on {calibrated:whole} held-out tokens", calibrated=calibrated)
        if calibrated
        else ""
    )
    return say(
        "{source} ({dialect}{revision}){threshold}{missing}",
        source=named(record["source"]),
        dialect=named(record.get("dialect") or "this toolkit"),
        revision=revision,
        threshold=threshold,
        missing=missing,
    )
