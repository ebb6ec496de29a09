"""A crosscoder that another tool's recipe trained on the toy pair goes to a page with labels in one command."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.shards import ShardReader
from crosscoder.demo.settings import demo_config
from crosscoder.run.folder import RunFolder
from tests.analysis.report_runs import report_text
from tests.small_runs import SETTINGS, Said, crosscoder

N_LATENTS, STEPS, BATCH = 96, 1500, 512
OWN = [word for word in SETTINGS if not word.startswith(("crosscoder.", "training."))]


def trained_elsewhere(values: Float[Tensor, "token model d_model"], folder: Path) -> Float[Tensor, " model"]:
    """Train a ReLU crosscoder by the published recipe (Kissane et al. 2024): squared error of both models plus an L1 penalty
    weighted by the summed decoder norms, on activations of mean norm √d. Save it as that code does; return the factors, which it does not save."""
    torch.manual_seed(0)
    n_models, width = values.shape[1:]
    factors = width**0.5 / values.norm(dim=2).mean(dim=0)
    inputs = values * factors[:, None]
    decoder = torch.randn(N_LATENTS, n_models, width)
    decoder = 0.1 * decoder / decoder.norm(dim=2, keepdim=True)
    weights = {
        "W_enc": decoder.permute(1, 2, 0).clone(),
        "W_dec": decoder,
        "b_enc": torch.zeros(N_LATENTS),
        "b_dec": torch.zeros(n_models, width),
    }
    parameters = [one.requires_grad_() for one in weights.values()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for step in range(STEPS):
        batch = inputs[torch.randint(len(inputs), (BATCH,))]
        codes = (torch.einsum("tmd,mdf->tf", batch, weights["W_enc"]) + weights["b_enc"]).relu()
        rebuilt = torch.einsum("tf,fmd->tmd", codes, weights["W_dec"]) + weights["b_dec"]
        penalty = (codes * weights["W_dec"].norm(dim=2).sum(dim=1)).sum(dim=1).mean()
        loss = (rebuilt - batch).square().sum(dim=(1, 2)).mean() + 0.3 * min(1, step / 300) * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.mkdir()
    torch.save({name: one.detach() for name, one in weights.items()}, folder / "cc_weights.pt")  # noqa: TID251
    settings = {"d_in": width, "dict_size": N_LATENTS, "l1_coeff": 0.3, "hook_point": "model.layers.1"}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return factors


@pytest.mark.slow
def test_a_crosscoder_trained_elsewhere_goes_to_a_page_with_labels_in_one_command(tmp_path: Path) -> None:
    settings = demo_config(tmp_path / "run", toy=True)[0].model_dump(mode="json")
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(settings))
    assert crosscoder("harvest", tmp_path / "pair.yaml", *OWN, f"output={tmp_path / 'texts'}") == Said(0, "")
    (batch,) = ShardReader(RunFolder(tmp_path / "texts").activations, "train").batches(10**6)
    values = batch.values.float().unflatten(1, (2, -1))
    factors = trained_elsewhere(values, tmp_path / "theirs")

    settings |= {
        "output": str(tmp_path / "run"),
        "crosscoder": {
            "load": {
                "source": str(tmp_path / "theirs"),
                "models": ["reference", "intervened"],
                "normalization": ",".join(f"{factor:.8f}" for factor in factors.tolist()),
            }
        },
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(settings))
    assert crosscoder("run", tmp_path / "pair.yaml", *OWN) == Said(0, "")

    run = RunFolder.open(tmp_path / "run")
    labels = Counter(pd.read_parquet(run.analysis / "features.parquet")["label"])
    # Without nulls and other trainings, no change of a single latent is claimed.
    assert labels["shared"] >= N_LATENTS / 4
    assert not set(labels) & {"new", "lost", "rotated", "rescaled", "replaced"}
    page = (run.browser / "index.html").read_text(encoding="utf-8")
    assert "shared" in page and "Loaded from" in report_text(run)
    summary = json.loads((run.analysis / "summary.json").read_text())
    assert min(summary["fve"].values()) > 0.5
