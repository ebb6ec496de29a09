"""A disk that fills up while tensors are written: one line says so, and the last good state is kept."""

import json
from pathlib import Path

import pytest

from crosscoder.dictionary.storage import load_crosscoder
from tests.processes import run_python
from tests.training.in_memory import make_trainer, run_config
from training.checkpoints import checkpoints, load_checkpoint

PROGRAM = """
import resource, sys
from pathlib import Path
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ResourceError
from crosscoder.run.tracking import MetricsLog
from tests.training.in_memory import make_trainer, run_config
from training.checkpoints import save_checkpoint

root, what = Path(sys.argv[1]), sys.argv[2]
trainer = make_trainer(run_config(root, steps=4, checkpoint_every=2))
dictionary = trainer.fit()
save_crosscoder(dictionary, root / "crosscoder")
trainer.metrics.truncate(4)
# The file system takes no file beyond this size: writing fails in the middle, as on a full disk.
limit = (root / "metrics.jsonl").stat().st_size + 10 if what == "metrics" else 8000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    if what == "checkpoint":
        trainer.state.step = 5
        save_checkpoint(root / "checkpoints", trainer.state)
    elif what == "dictionary":
        save_crosscoder(dictionary, root / "crosscoder")
    else:
        trainer.metrics.write(5, 5, {"losses/overall_loss": 1.0})
except ResourceError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "dictionary", "metrics"])
def test_the_last_good_state_is_kept(tmp_path: Path, what: str) -> None:
    root = tmp_path / "run"
    done = run_python("-c", PROGRAM, root, what)
    (said,) = done.stdout.splitlines()
    assert said.endswith(": the disk is full; free some space and run the same command again"), done.stderr
    assert not list(root.rglob("*.partial"))
    assert [path.name for path in checkpoints(root / "checkpoints")] == ["step_00000002", "step_00000004"]
    trainer = make_trainer(run_config(root, steps=4, checkpoint_every=2))
    load_checkpoint(root / "checkpoints" / "step_00000004", trainer.state)
    assert load_crosscoder(root / "crosscoder").config.n_latents == 128
    lines = (root / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines[:4]] == [1, 2, 3, 4]
