"""Finding and set check repeated with other trainings: a dictionary with the planted latents agrees, one without them does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from analysis.behaviors.carrying_latents import check, decompose_shift, rank
from analysis.behaviors.experiment import Experiment
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.replicas import Repeated, Replica, repeat, stability
from analysis.latents.dictionary_view import DictionaryView, view_of
from crosscoder.config import CrosscoderConfig, ReLU, TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.language_models.pair import ModelPair
from tests.planted_network import FIRST, NO, SECOND, WIDTH, YES, U, planted_pair
from tests.tiny_pairs import save_llama

N_LATENTS = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    folder = tmp_path_factory.mktemp("model")
    return planted_pair(AutoTokenizer.from_pretrained(save_llama(folder / "llama")), 0.6, 0.2, 0.0, 0.2)


def dictionary(place: int | None, seed: int) -> Crosscoder:
    """Return a dictionary whose latent `place` carries 60 % of the shift; the others fire too, and move what nothing reads."""
    made = Crosscoder(
        CrosscoderConfig(
            d_models=(WIDTH, WIDTH),
            model_names=("reference", "intervened"),
            n_latents=N_LATENTS,
            sparsity=ReLU(target_l0=N_LATENTS),
        )
    )
    unread = torch.randn(N_LATENTS, WIDTH, generator=torch.Generator().manual_seed(seed))
    unread[:, U] = 0
    with torch.no_grad():
        made.W_enc.zero_()
        made.b_enc.zero_()
        made.W_dec.zero_()
        made.W_enc[SECOND] = 1.0  # 1 in both models' tokens
        made.W_dec[:, WIDTH:] = 0.6 * normalize(unread, dim=1)
        if place is not None:
            made.W_dec[place] = 0
            made.W_dec[place, WIDTH + U] = 0.6
            made.W_dec[place, WIDTH + FIRST] = 0.1
    return made


def experiment(pair: ModelPair, view: DictionaryView, tmp_path: Path, **checks: Any) -> Experiment:
    behavior = Behavior.model_validate(
        {
            "name": "b", "prompts": ["a", "b", "c", "d"], "metric": {"kind": "log_odds", "tokens": ["a"]},
            "checks": {"latents": 1, "draws": 39, "latent_draws": 19} | checks,
        }
    )  # fmt: skip
    made = Experiment(behavior, pair, view, TokenPolicy(), tmp_path / "replies")
    numbers = np.random.default_rng(0)
    made.prompts = [type(made.prompts[0])(str(i), numbers.integers(7, 30, size=6)) for i in range(30)]
    made.metric = NextTokenLogOdds(torch.tensor([YES]), torch.tensor([NO]))
    made.held_out = np.arange(30) % 2 == 0
    return made


def stable(pair: ModelPair, tmp_path: Path, others: list[Crosscoder], **checks: Any) -> dict[str, Any]:
    view = view_of(dictionary(3, 0), pair.d_models, "paired")
    made = experiment(pair, view, tmp_path, **checks)
    found, claim = decompose_shift(made, made.find), decompose_shift(made, made.claim)
    repeated: list[Repeated] = []
    for number, other in enumerate(others, 1):
        replica = Replica(f"seed_{number}", view_of(other, pair.d_models, "paired"))
        repeated.append(repeat(made, found, claim, replica))
    return stability(made, check(made, rank(made, found), found, claim).along, "nats", repeated)


def test_a_claim_that_holds_in_every_training_says_so(pair: ModelPair, tmp_path: Path) -> None:
    found = stable(pair, tmp_path, [dictionary(8, 1), dictionary(21, 2)])
    assert found["made"] and (found["causal"], found["trainings"]) == (3, 3)
    for entry, place in zip(found["each"], (8, 21), strict=True):
        assert entry["named"] == [place] and entry["set_passed"] and entry["agreement"] == 1
        (again,) = entry["again"]
        assert (again["latent"], again["nearest"], again["found"], again["named"]) == (3, place, True, True)
        assert again["cosine"] == pytest.approx(1)


def test_a_training_without_the_latent_does_not_confirm_it(pair: ModelPair, tmp_path: Path) -> None:
    found = stable(pair, tmp_path, [dictionary(8, 1), dictionary(None, 2)])
    assert (found["causal"], found["trainings"]) == (2, 3)
    lost = found["each"][1]
    assert not lost["set_passed"] and lost["agreement"] == 0 and not lost["again"][0]["found"]


def test_another_dictionary_is_attributed_as_if_it_were_the_run_s_own(
    pair: ModelPair, tmp_path: Path
) -> None:
    """With the gradients of the first."""
    view, other = (view_of(dictionary(place, place), pair.d_models, "paired") for place in (3, 8))
    first, own = experiment(pair, view, tmp_path), experiment(pair, other, tmp_path)
    sides = [(decompose_shift(made, made.find), decompose_shift(made, made.claim)) for made in (first, own)]
    repeated = repeat(first, *sides[0], Replica("seed_1", other))
    ranking = rank(own, sides[1][0])
    checked = check(own, ranking, *sides[1]).along
    assert repeated.named == checked.named == (8,)
    assert repeated.together["necessity"].estimate.value == pytest.approx(
        checked.together["necessity"].estimate.value, abs=1e-6
    )


@pytest.mark.parametrize(
    ("others", "checks", "message"),
    [
        (0, {}, "no dictionary of another seed"),
        (0, {"replicas": False}, "checks.replicas is off"),
        (1, {"draws": 20}, "is not made"),
    ],
)
def test_without_other_trainings_stability_is_not_claimed(
    pair: ModelPair, tmp_path: Path, others: int, checks: dict[str, Any], message: str
) -> None:
    found = stable(pair, tmp_path, [dictionary(8, 1)] * others, **checks)
    assert found["made"] is False and message in found["why_not"]
    assert found["trainings"] is found["causal"] is None
