import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.errors import FormatError
from tests.training.in_memory import make_trainer, run_config
from training.checkpoints import KEPT, TrainState, checkpoints, load_checkpoint, save_checkpoint

JUMPRELU = {"kind": "jumprelu", "target_l0": 4}


def trained(tmp_path: Path, name: str = "run", steps: int = 3, **settings: Any) -> TrainState:
    trainer = make_trainer(run_config(tmp_path / name, steps=steps, n_latents=16, **settings))
    trainer.fit()
    return trainer.state


def fresh(tmp_path: Path, **settings: Any) -> TrainState:
    settings = {"n_latents": 16} | settings
    return make_trainer(run_config(tmp_path / "-".join(["fresh", *map(str, settings)]), **settings)).state


def content(state: TrainState) -> dict[str, Tensor]:
    tensors = dict(state.crosscoder.state_dict())
    for name, parameter in state.crosscoder.named_parameters():
        tensors |= {f"{name}.{moment}": value for moment, value in state.optimizer.state[parameter].items()}
    return {name: value.clone() for name, value in tensors.items()} | {
        "fired": state.tokens_since_fired.clone()
    }


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value.nan_to_num(7), second[name].nan_to_num(7)), name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "checkpoints", trained(tmp_path))


@pytest.mark.parametrize("sparsity", [{"kind": "batch_topk", "k": 4}, JUMPRELU])
def test_loading_restores_everything(tmp_path: Path, sparsity: dict[str, Any]) -> None:
    state = trained(tmp_path, sparsity=sparsity)
    state.source = {"pass_index": 3, "offset": 17, "order": torch.arange(5)}
    state.wandb_id = "abc"
    path = save_checkpoint(tmp_path / "checkpoints", state)
    drawn = torch.rand(3)
    other = fresh(tmp_path, sparsity=sparsity)
    assert not torch.equal(other.crosscoder.W_dec, state.crosscoder.W_dec)
    load_checkpoint(path, other)
    assert_bit_equal(content(state), content(other))
    for name in ("step", "n_tokens", "penalty", "precision", "wandb_id"):
        assert getattr(other, name) == getattr(state, name), name
    assert (other.step, other.n_tokens) == (3, 192)
    assert other.source is not None
    assert torch.equal(other.source.pop("order"), torch.arange(5))
    assert other.source == {"pass_index": 3, "offset": 17}
    assert torch.equal(torch.rand(3), drawn), "torch's random numbers go on where they were"


def test_a_state_before_the_first_step_can_be_saved(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    path = save_checkpoint(tmp_path / "checkpoints", state)
    other = fresh(tmp_path, seed=1)
    load_checkpoint(path, other)
    assert other.source is None
    assert torch.equal(other.crosscoder.W_dec, state.crosscoder.W_dec)
    assert not other.optimizer.state


def test_the_two_newest_are_kept_in_order_of_steps(tmp_path: Path) -> None:
    state, folder = trained(tmp_path), tmp_path / "checkpoints"
    for step in (9, 10, 100, 99_999_999):
        state.step = step
        save_checkpoint(folder, state)
    assert KEPT == 2
    assert [path.name for path in checkpoints(folder)] == ["step_00000100", "step_99999999"]
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000100", "step_99999999"]


def test_a_partial_checkpoint_is_ignored(saved: Path, tmp_path: Path) -> None:
    partial = saved.with_name("step_00000009.partial")
    shutil.copytree(saved, partial)
    assert checkpoints(saved.parent) == [saved]
    state = fresh(tmp_path)
    load_checkpoint(saved, state)
    state.step = 9
    final = save_checkpoint(saved.parent, state)
    assert checkpoints(saved.parent) == [saved, final]
    assert not partial.exists()


def test_no_folder_means_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "missing") == []


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
def test_one_modified_byte_is_refused_by_name(saved: Path, tmp_path: Path, place: float) -> None:
    file = saved / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match="modified or truncated") as caught:
        load_checkpoint(saved, fresh(tmp_path))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("length", [0, 9, -5])
def test_a_truncated_file_is_refused_by_name(saved: Path, tmp_path: Path, name: str, length: int) -> None:
    (saved / name).write_bytes((saved / name).read_bytes()[:length])
    with pytest.raises(FormatError, match=str(saved)):
        load_checkpoint(saved, fresh(tmp_path))


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_missing_file_is_refused_by_name(saved: Path, tmp_path: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(FormatError, match=str(saved)):
        load_checkpoint(saved, fresh(tmp_path))


@pytest.mark.parametrize(
    "change", [{"step": 1}, {"n_tokens": 0}, {"penalty": 9.0}, {"source": {"offset": 0}}]
)
def test_a_modified_record_is_refused_by_name(saved: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    record = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(record | change))
    with pytest.raises(
        FormatError, match=r"state\.json: does not match its own digest; it was modified or truncated"
    ):
        load_checkpoint(saved, fresh(tmp_path))


@pytest.mark.parametrize("text", ["[]", "{}", '{"digest": 1}', "null"])
def test_a_foreign_record_is_refused_by_name(saved: Path, tmp_path: Path, text: str) -> None:
    (saved / "state.json").write_text(text)
    with pytest.raises(FormatError, match=str(saved)):
        load_checkpoint(saved, fresh(tmp_path))


@pytest.mark.parametrize("change", [{"n_latents": 17}, {"sparsity": JUMPRELU}])
def test_the_checkpoint_of_another_dictionary_is_refused(
    saved: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(FormatError, match=r"belongs to another dictionary .* use a new run folder") as caught:
        load_checkpoint(saved, fresh(tmp_path, **change))
    assert "\n" not in str(caught.value)


def test_an_unmodified_checkpoint_is_accepted(saved: Path, tmp_path: Path) -> None:
    """The control of the tests above."""
    state = fresh(tmp_path)
    load_checkpoint(saved, state)
    assert state.step == 3
