"""Divergence: a loss that explodes, or that ends above where it began, stops a training; hard but sound trainings go on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscoder.errors import DivergedError
from tests.training.in_memory import DisturbedSource, make_trainer, planted_source, run_config, source_of
from training.checkpoints import checkpoints, load_checkpoint
from training.divergence import EXPLODED, GROWTH, ended_worse, exploded, worst_error
from training.sources import TokenSource
from training.trainer import Trainer

VARIANTS: dict[str, dict[str, Any]] = {
    "batch_topk": {"sparsity": {"kind": "batch_topk", "k": 4}},
    "one_latent": {"sparsity": {"kind": "batch_topk", "k": 1}},
    "topk": {"sparsity": {"kind": "topk", "k": 4}},
    "dense_topk": {"sparsity": {"kind": "topk", "k": 64}},
    "relu": {"sparsity": {"kind": "relu", "target_l0": 4}},
    "strong_l1": {"sparsity": {"kind": "relu", "target_l0": 4, "coefficient": 50.0}},
    "jumprelu": {"sparsity": {"kind": "jumprelu", "target_l0": 4}},
    "sparsest": {"sparsity": {"kind": "jumprelu", "target_l0": 0.2}},
    "matryoshka": {"nested": (0.25, 0.5)},
    "pooled": {"reads": "pooled"},
    "difference": {"reads": "difference"},
}


def noise() -> TokenSource:
    """Two models that share nothing and have no structure."""
    random = torch.Generator().manual_seed(0)
    return source_of(
        torch.randn(1000, 64, generator=random), torch.randn(1500, 64, generator=random), (32, 32)
    )


def heavy_tails() -> TokenSource:
    """A few tokens hold most of the variance, so that batches differ by orders of magnitude."""
    random = torch.Generator().manual_seed(0)

    def draw(n_tokens: int) -> torch.Tensor:
        sizes = torch.randn(n_tokens, 1, generator=random).exp().square()
        return torch.randn(n_tokens, 64, generator=random).pow(3) * sizes

    return source_of(draw(1000), draw(1500), (32, 32))


SOURCES = {"planted": planted_source, "noise": noise, "heavy_tails": heavy_tails}


def trainer_of(path: Path, variant: str, source: TokenSource, **training: Any) -> Trainer:
    settings = dict(VARIANTS[variant])
    nested = settings.pop("nested", ())
    config = run_config(path, **settings, **training)
    crosscoder = config.crosscoder.model_copy(update={"nested": nested})
    return make_trainer(config.model_copy(update={"crosscoder": crosscoder}), source)


@pytest.mark.parametrize("lr", [1.0, 1e6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_learning_rate_that_is_far_too_high_ends_the_training(
    tmp_path: Path, variant: str, lr: float
) -> None:
    if variant == "difference" and lr == 1.0:
        lr = 100.0  # its latents are few and small: 1 trains
    trainer = trainer_of(tmp_path, variant, planted_source(), steps=40, lr=lr)
    with pytest.raises(DivergedError, match=r"^training\.lr: .*; train with a lower training\.lr") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("source", "steps"), [("planted", 2), ("noise", 40), ("heavy_tails", 40)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hard_training_goes_on(tmp_path: Path, variant: str, source: str, steps: int) -> None:
    """Nulls, heavy tails, extreme sparsity and a training that has hardly begun: none learns much, none has diverged."""
    trainer_of(tmp_path, variant, SOURCES[source](), steps=steps, lr=1e-3).fit()


def test_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    """The batch that explodes comes after a checkpoint, which still loads."""
    source = DisturbedSource(planted_source(), 6, lambda values: values * 1e6)
    trainer = trainer_of(tmp_path, "batch_topk", source, steps=12)
    with pytest.raises(
        DivergedError, match=r"the loss exploded: at step 7 .*the last good checkpoint is .*step_00000004"
    ):
        trainer.fit()
    kept = checkpoints(trainer.folder.checkpoints)
    assert [path.name for path in kept] == ["step_00000004"]
    again = trainer_of(tmp_path, "batch_topk", planted_source(), steps=12)
    load_checkpoint(kept[0], again.state)
    assert again.state.step == 4
    assert again.state.first_error == trainer.state.first_error


def test_a_training_that_ends_worse_than_it_began_is_refused(tmp_path: Path) -> None:
    """A loss that rises slowly never explodes."""
    trainer = trainer_of(tmp_path, "batch_topk", planted_source(), steps=8)

    def spoil(values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            trainer.state.crosscoder.b_dec.add_(6.0)
        return values

    trainer.source = DisturbedSource(planted_source(), 7, spoil)
    with pytest.raises(
        DivergedError, match=r"training ended worse than it began: .*step_00000004; train with"
    ):
        trainer.fit()


def test_the_limits() -> None:
    assert exploded(float("nan"), 1.0) and exploded(float("inf"), 1.0)
    assert exploded(EXPLODED * 1.01, 1.0) and not exploded(EXPLODED * 0.99, 1.0)
    assert not exploded(EXPLODED * 1.01, EXPLODED / GROWTH * 2), "a hard start raises the limit"
    assert ended_worse(3.0, 1.0) and not ended_worse(1.9, 0.1)
    assert not ended_worse(3.0, 4.0), "it began as badly"


def test_the_difference_between_models_does_not_count() -> None:
    found = {"metrics/explained_variance/reference": 0.4, "metrics/explained_variance/intervened": -3.0}
    assert worst_error({**found, "diff/explained_variance": -50.0}) == 4.0
    assert (
        worst_error({"metrics/explained_variance/reference": None, "diff/explained_variance": -50.0}) == 0.0
    )
