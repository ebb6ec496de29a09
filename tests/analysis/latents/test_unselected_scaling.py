"""Latent scaling on tokens that one model alone chooses."""

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.latents import unselected_scaling as module
from analysis.latents.dictionary_view import PairedView
from analysis.latents.unselected_scaling import (
    UnselectedScaling,
    UnselectedSums,
    nu_unselected,
    unselected_inputs,
)
from crosscoder.config import CrosscoderConfig, ReLU
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from tests.analysis.readers import MemoryReader

D, BLOCKS = 6, 16
N_TOKENS = 4000


def dictionary() -> PairedView:
    """Latents of coordinate 0 and 1. On coordinate 0: what both models hold, and what only the reference does. On coordinate 1: the same, and
    what only the intervened model holds on coordinate 2."""
    latents = (
        # encoder of reference and intervened, decoder of reference and intervened, by coordinate
        ({}, {0: 1.0}, {0: 1.0}, {0: 1.0}),
        ({0: 1.0}, {0: -1.0}, {0: 1.0}, {}),
        ({1: 1.0}, {}, {1: 1.0}, {}),
        ({}, {2: 1.0}, {}, {2: 1.0}),
    )
    config = CrosscoderConfig(
        d_models=(D, D), model_names=model_names(2), n_latents=len(latents), sparsity=ReLU(target_l0=1)
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        for part in crosscoder.parameters():
            part.zero_()
        # So that noise alone makes no latent fire; the error then holds what the code lacks.
        crosscoder.b_enc.fill_(-0.2)
        for latent, (read_reference, read_intervened, reference, intervened) in enumerate(latents):
            for offset, entries in ((0, read_reference), (D, read_intervened)):
                for coordinate, value in entries.items():
                    crosscoder.W_enc[offset + coordinate, latent] = value
            for offset, entries in ((0, reference), (D, intervened)):
                for coordinate, value in entries.items():
                    crosscoder.W_dec[latent, offset + coordinate] = value
    return PairedView(crosscoder.eval(), (D, D))


def activations(kept: float, seed: int = 0) -> Tensor:
    """A feature on coordinate 0 that the intervened model drops on a share of its tokens, and one on coordinate 1 that gave way to one on
    coordinate 2, on the same tokens."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(N_TOKENS, 2, generator=generator) < 0.1
    size = fires * (1 + 0.2 * torch.randn(N_TOKENS, 2, generator=generator)).clamp_min(0.5)
    stays = torch.rand(N_TOKENS, generator=generator) < kept
    values = 0.01 * torch.randn(N_TOKENS, 2 * D, generator=generator)
    values[:, 0] += size[:, 0]
    values[:, D] += size[:, 0] * stays
    values[:, 1] += size[:, 1]
    values[:, D + 2] += size[:, 1]
    return values


INTERVENED = {3}
"""Latents whose direction the intervened model has."""


def unselected_scaling(
    view: PairedView,
    reader: MemoryReader,
    latents: np.ndarray,
    chosen_by_intervened: np.ndarray,
    mean_activation: np.ndarray,
    seed: int = 0,
) -> UnselectedScaling:
    inputs = unselected_inputs(latents, chosen_by_intervened, mean_activation)
    sums = UnselectedSums(view, inputs, BLOCKS, seed)
    for batch in reader.batches(512):
        sums.update(batch)
    return sums.result()


def asked(values: Tensor, latents: list[int], seed: int = 0) -> UnselectedScaling:
    view, reader = dictionary(), MemoryReader(values, (D, D))
    mean = np.ones(view.n_latents)
    by_intervened = np.array([latent in INTERVENED for latent in latents])
    return unselected_scaling(view, reader, np.array(latents), by_intervened, mean, seed)


def shares(found: UnselectedScaling) -> list[float]:
    return nu_unselected(found.moments.whole()).tolist()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_the_share_that_the_other_model_keeps_is_found(kept: float) -> None:
    """The latent of what only the reference holds fires just where the feature was dropped, so its own firings show a share of 0."""
    (found,) = shares(asked(activations(kept), [1]))
    assert found == pytest.approx(kept, abs=0.08)


def test_a_direction_that_the_other_model_lacks_has_no_share() -> None:
    lost, new = shares(asked(activations(0.5), [2, 3]))
    assert abs(lost) < 0.02 and abs(new) < 0.02


def test_latents_that_fire_together_in_different_models_are_partners() -> None:
    found = asked(activations(0.0), [1, 2, 3])
    intervened_stronger = np.array([False, False, True])
    partner = found.partner_jaccard(intervened_stronger)
    assert partner[1] > 0.9 and partner[2] > 0.9
    assert partner[0] < 0.2, "independent firings"
    assert asked(activations(0.0), [2]).partner_jaccard(np.array([False])).tolist() == [0.0]


def test_chunks_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked(activations(0.3), [1, 2, 3])
    monkeypatch.setattr(module, "_CHUNK", 2)
    parts = asked(activations(0.3), [1, 2, 3])
    for name, sums in whole.moments.sums.items():
        assert torch.allclose(parts.moments.sums[name], sums)
    assert np.allclose(parts.jaccard, whole.jaccard)


def test_exchanging_the_models_changes_no_share() -> None:
    """Seen from the other side, the reference drops the feature, and the dictionary's rows are exchanged."""
    values = activations(0.3)
    view = dictionary()
    swapped = dictionary()
    with torch.no_grad():
        swapped.crosscoder.W_enc.copy_(view.crosscoder.W_enc.roll(D, dims=0))
        swapped.crosscoder.W_dec.copy_(view.crosscoder.W_dec.roll(D, dims=1))
    mirrored = PairedView(swapped.crosscoder, (D, D))
    reader = MemoryReader(values.roll(D, dims=1), (D, D))
    by_intervened = np.array([True, True, False])
    found = unselected_scaling(mirrored, reader, np.array([1, 2, 3]), by_intervened, np.ones(4))
    assert shares(found) == pytest.approx(shares(asked(values, [1, 2, 3])), abs=1e-5)


@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_either_model_may_choose_the_tokens_of_a_latent_of_both(kept: float) -> None:
    """Latent 1 writes coordinate 0 of the reference and coordinate 3 of the intervened model, where the latter gave the first one up. Only the
    reference's tokens show that the intervened model kept it on the others."""
    view, values = replacing_dictionary(), activations(kept)
    values[:, D + 3] += values[:, 0] - values[:, D]
    reader, mean = MemoryReader(values, (D, D)), np.ones(view.n_latents)
    shares_of = [
        shares(unselected_scaling(view, reader, np.array([1]), np.array([by]), mean))[0]
        for by in (False, True)
    ]
    assert shares_of == pytest.approx([kept, 0.0], abs=0.08)


def replacing_dictionary() -> PairedView:
    """The dictionary, but latent 1 also writes coordinate 3 of the intervened model."""
    view = dictionary()
    with torch.no_grad():
        view.crosscoder.W_dec[1, D + 3] = 1.0
    return PairedView(view.crosscoder, (D, D))
