"""The precision of the forward passes, where the settings leave it open."""

from pathlib import Path

import pytest

from crosscoder.config import RunConfig
from crosscoder.config.open_settings import with_choices
from crosscoder.config.pair import PairConfig
from crosscoder.errors import ConfigError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime import device
from crosscoder.runtime.model_dtypes import settle_dtypes

GIVEN = {"model": "given", "dtype": "float16"}
OPEN = {"model": "open"}


@pytest.fixture(params=[True, False], ids=["with units", "without units"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A machine with or without units for bfloat16."""
    monkeypatch.setattr(device, "has_bfloat16_units", lambda _: request.param)
    return bool(request.param)


def pair(**sources: object) -> PairConfig:
    """A pair on the CPU."""
    return PairConfig.model_validate({"hookpoint": "layer", "device": "cpu", "reference": OPEN, **sources})


def run_config(folder: Path) -> RunConfig:
    """Settings of a run on such a pair."""
    (folder / "text.jsonl").write_text('{"text": "A text."}\n')
    return RunConfig.model_validate(
        {
            "output": folder / "run",
            "pair": pair(intervened=GIVEN).model_dump(),
            "text": {"sources": [{"name": "text", "path": str(folder / "text.jsonl")}]},
        }
    )


@pytest.mark.parametrize("other", [{"adapter": "folder"}, {"context": "Answer in rhyme."}, GIVEN, OPEN])
def test_open_dtypes_follow_the_hardware(units: bool, other: dict[str, str]) -> None:
    """bfloat16 where the hardware has units for it; a dtype that is given stays."""
    fastest = "bfloat16" if units else "float32"
    snapshots = [] if "context" in other else [GIVEN, OPEN]
    settled = settle_dtypes(pair(intervened=other, snapshots=snapshots))
    expected = "float16" if other is GIVEN else fastest
    assert settled.dtypes == (fastest, expected, "float16", fastest)[: 2 + len(snapshots)]
    assert settle_dtypes(settled) == settled


def test_a_run_keeps_its_choice_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was begun in bfloat16 continues in bfloat16 where float32 would be chosen, and its settings do not count as changed."""
    config = run_config(tmp_path)
    monkeypatch.setattr(device, "has_bfloat16_units", lambda _: True)
    folder = RunFolder.create(config.output, config)
    monkeypatch.setattr(device, "has_bfloat16_units", lambda _: False)
    stored = folder.read_config()
    assert stored.pair is not None and stored.pair.dtypes == ("bfloat16", "float16")
    (folder.path / "result").touch()
    continued = RunFolder.create(config.output, config).read_config()
    assert continued == stored == with_choices(config, stored)


def test_another_dtype_than_that_of_the_run_is_refused(tmp_path: Path, units: bool) -> None:
    """One that is given, and not left open, is compared with the run's."""
    RunFolder.create(tmp_path / "run", run_config(tmp_path))
    (tmp_path / "run" / "result").touch()
    asked = run_config(tmp_path)
    assert asked.pair is not None
    asked = asked.model_copy(update={"pair": asked.pair.with_dtypes(("float16", "float16"))})
    with pytest.raises(ConfigError, match=r"pair\.reference\.dtype.*float16"):
        RunFolder.create(tmp_path / "run", asked)
