"""One step on ranks that divide the latents gives the loss, the gradients and the clipped norm of one process."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.config import AuxiliaryConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.divided_weights import LATENT_DIMENSION, take_whole
from crosscoder.dictionary.latent_ranks import ALONE, GroupRanks
from crosscoder.runtime.process_group import process_group
from tests.dictionaries import SHAPES, raw_activations, small_crosscoder
from tests.groups import Group
from training.clipping import clip_gradients
from training.forward import Forward
from training.losses import loss_terms

N_LATENTS = 25
PENALTY = 0.3
CLIPPED = 0.05

NONE_DEAD = torch.zeros(N_LATENTS, dtype=torch.bool)
SOME_DEAD = torch.arange(N_LATENTS) % 4 == 0
DEAD_ON_ONE_RANK = torch.arange(N_LATENTS) > 15

CASES: dict[str, dict[str, Any]] = {
    "batch_topk, sparse": {"kind": "batch_topk", "path": "sparse"},
    "batch_topk, dense": {"kind": "batch_topk", "path": "dense", "dead": SOME_DEAD},
    "topk, sparse": {"kind": "topk", "path": "sparse", "dead": SOME_DEAD},
    "topk, dense": {"kind": "topk", "path": "dense"},
    "relu": {"kind": "relu", "path": "dense", "dead": SOME_DEAD},
    "jumprelu": {"kind": "jumprelu", "path": "dense", "dead": SOME_DEAD},
    "dead on one rank": {"kind": "batch_topk", "path": "sparse", "dead": DEAD_ON_ONE_RANK},
    "few of many dead": {"kind": "batch_topk", "path": "sparse", "dead": DEAD_ON_ONE_RANK, "auxiliary_k": 1},
    "all dead": {"kind": "topk", "path": "sparse", "dead": ~NONE_DEAD, "auxiliary_k": 2},
    "nested, sparse": {"kind": "batch_topk", "path": "sparse", "nested": (3, 12, 20)},
    "nested, dense": {"kind": "topk", "path": "dense", "nested": (12, 13)},
    "exclusive and tied": {"kind": "batch_topk", "path": "sparse", "n_exclusive": 7, "n_tied": 9},
    "unequal widths": {"kind": "batch_topk", "path": "sparse", "shape": "two_unequal"},
}


def whole_dictionary(case: dict[str, Any]) -> Crosscoder:
    """The dictionary of a case, with all latents, in float64."""
    found = small_crosscoder(case["kind"], case.get("shape", "two"), N_LATENTS)
    bound = {name: case[name] for name in ("n_exclusive", "n_tied") if name in case}
    crosscoder = Crosscoder(found.config.model_copy(update=bound))
    crosscoder.load_state_dict(found.state_dict())
    return crosscoder.double()


def step(case: dict[str, Any], crosscoder: Crosscoder) -> dict[str, Tensor]:
    """Loss terms, errors, the threshold and the clipped gradients."""
    activations = raw_activations(SHAPES[case.get("shape", "two")]).double()
    normalized = crosscoder.normalize(activations)
    forward = Forward(crosscoder, torch.float64, case["path"], case.get("nested", ()))(normalized, 5.0)
    held = slice(crosscoder.latents.start, crosscoder.latents.stop)
    auxiliary = AuxiliaryConfig(coefficient=1.0, k=case.get("auxiliary_k", 3))
    terms = loss_terms(forward, case.get("dead", NONE_DEAD)[held], auxiliary, PENALTY)
    terms.total().backward()
    forward.complete_gradients()
    crosscoder.constrain_gradients()
    clip_gradients(crosscoder, CLIPPED)
    fired, l0 = forward.fired()
    found = {f"term {name}": value.detach() for name, value in terms.items()}
    found |= {"error": forward.error.detach(), "fired": fired, "l0": l0.double()}
    for name, parameter in crosscoder.named_parameters():
        assert parameter.grad is not None
        found[f"gradient of {name}"] = parameter.grad
    crosscoder.calibrate(activations, chunk=20)
    if case["kind"] == "batch_topk":
        found["threshold"] = crosscoder.sparsity.get_buffer("threshold")
    return found


def divided_steps() -> dict[str, dict[str, Tensor]]:
    """What each case gives on this rank."""
    found = {}
    for name, case in CASES.items():
        ranks = GroupRanks(process_group())
        whole = whole_dictionary(case)
        crosscoder = Crosscoder(whole.config, ranks=ranks).double()
        take_whole(crosscoder, whole.state_dict() if ranks.leads else None)
        found[name] = step(case, crosscoder)
    return found


def dimension_of(name: str) -> int | None:
    """The dimension of the latents in a result of `step`."""
    return 0 if name == "fired" else LATENT_DIMENSION.get(name.removeprefix("gradient of "))


@pytest.fixture(scope="module")
def divided(two_ranks: Group) -> list[dict[str, dict[str, Tensor]]]:
    return two_ranks.run(divided_steps)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_two_ranks_is_that_of_one(divided: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    alone = step(CASES[name], whole_dictionary(CASES[name]))
    parts = [part[name] for part in divided]
    assert alone.keys() == parts[0].keys()
    assert ("term auxk" in alone) == bool(CASES[name].get("dead", NONE_DEAD).any())
    for result, expected in alone.items():
        dimension = dimension_of(result)
        if dimension is None:
            for part in parts:
                assert torch.equal(part[result], parts[0][result]), f"{result} is alike on all ranks"
        whole = (
            parts[0][result]
            if dimension is None
            else torch.cat([part[result] for part in parts], dim=dimension)
        )
        torch.testing.assert_close(
            whole, expected, rtol=1e-9, atol=1e-12, msg=lambda text, name=result: f"{name}: {text}"
        )
    clipped = (
        torch.stack([alone[key].square().sum() for key in alone if key.startswith("gradient")]).sum().sqrt()
    )
    assert float(clipped) == pytest.approx(CLIPPED, rel=1e-6), "the clip is active"


def test_the_start_of_a_rank_is_its_part_of_the_whole() -> None:
    """Also where the directions are drawn in several blocks, the last of which has a rest."""

    class Rank(type(ALONE)):
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    from crosscoder.dictionary import crosscoder as module

    config = whole_dictionary(CASES["unequal widths"]).config.model_copy(update={"n_latents": 211})
    before = module._DRAWN_AT_ONCE
    whole = Crosscoder(config, seed=4)
    try:
        module._DRAWN_AT_ONCE = 32
        blockwise = Crosscoder(config, seed=4)
        parts = [Crosscoder(config, seed=4, ranks=Rank(rank, 3)) for rank in range(3)]
    finally:
        module._DRAWN_AT_ONCE = before
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randn(211, config.d_models[0], generator=generator)
    assert torch.equal(whole.W_dec[:, : config.d_models[0]], torch.nn.functional.normalize(drawn, dim=1))
    assert torch.equal(blockwise.W_dec, whole.W_dec)
    assert torch.equal(torch.cat([part.W_dec for part in parts]), whole.W_dec)
    assert torch.equal(torch.cat([part.W_enc for part in parts], dim=1), whole.W_enc)
