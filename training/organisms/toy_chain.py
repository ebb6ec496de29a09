"""Two checkpoints between the models of the toy pair, so that a chain can be analyzed without training one.

    python -m training.organisms.toy_chain

Their weights are interpolated linearly between the reference and the intervened model, at the fractions `SHARES`. Fine-tuned
weights stay connected to their start by such a line of equally good models (Frankle et al. 2020, linear mode connectivity). The
planted changes therefore appear one by one along it, as in the checkpoints of a training.
"""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from crosscoder.demo.toy import FOLDER

SHARES = {"snapshot_1": 0.35, "snapshot_2": 0.65}
"""Fraction of the way from the reference to the intervened model, by name of the folder."""


def write_snapshots(folder: Path = FOLDER) -> None:
    """Write the checkpoints next to the pair in `folder`; everything but the weights is copied from the reference."""
    ends = [load_file(folder / side / "model.safetensors") for side in ("reference", "intervened")]
    for name, share in SHARES.items():
        shutil.copytree(folder / "reference", folder / name, dirs_exist_ok=True)
        weights = {
            key: tensor.float().lerp(ends[1][key].float(), share).to(tensor.dtype)
            for key, tensor in ends[0].items()
        }
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    write_snapshots()
