"""Steering uses the same edits as the causal checks and the doses."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from analysis.behaviors.activations import PromptActivations
from analysis.behaviors.causal import latent_mask
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.generation import Generator
from analysis.behaviors.patching import PatchedRun, unchanged
from analysis.behaviors.prompts import Prompt, Row
from analysis.latents.trained_run import RunModels, TrainedRun
from analysis.live.requests import SteerRequest
from analysis.live.steering import patched_runs
from analysis.live.text_view import encode_text
from crosscoder.config.behavior import Sampling
from crosscoder.errors import CrosscoderError, DataError
from tests.analysis.live.live_runs import LiveRun, dense, make_live_run
from tests.analysis.pair_run import N_LATENTS

TEXT = "amber birch cedar maple oak pine rose lilac"
N_NEW = 8


@pytest.fixture(
    scope="module",
    params=[("adapter", "paired"), ("adapter", "pooled"), ("adapter", "difference"), ("context", "paired")],
    ids="-".join,
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    return make_live_run(tmp_path_factory.mktemp("live"), *request.param)


@pytest.fixture(scope="module")
def models(run: LiveRun) -> RunModels:
    return TrainedRun(run.folder, run.config).models


def request(**more: Any) -> SteerRequest:
    return SteerRequest.model_validate(
        {"text": TEXT, "latents": range(N_LATENTS), "max_new_tokens": N_NEW} | more
    )


def answers(run: LiveRun, **more: Any) -> dict[str, dict[str, str]]:
    found = run.session.steer(request(**more))
    return {side: found[side] for side in ("reference", "intervened")}


def generated(models: RunModels, run: LiveRun, prompt: Prompt, edit: PatchedRun) -> str:
    """Generate an answer with the functions of the behaviors package."""
    sampling = Sampling(max_new_tokens=N_NEW)
    return Generator(*models, [prompt], run.config.tokens, sampling, seed=0).answers(edit)[0][0]


def means_of(run: LiveRun) -> torch.Tensor:
    features = pq.read_table(run.folder.features).to_pandas().sort_values("latent")
    return torch.tensor(features["mean_activation"].to_numpy(dtype=np.float64))


@pytest.mark.parametrize("how", ["part", "constant"])
def test_a_dose_of_zero_changes_nothing(run: LiveRun, models: RunModels, how: str) -> None:
    latents = alive(run)
    prompt = encode_text(request().document(), models.pair)
    for model, (_, found) in enumerate(answers(run, how=how, dose=0.0, latents=latents).items()):
        assert found["steered"] == found["unsteered"] == generated(models, run, prompt, unchanged(model))


def alive(run: LiveRun) -> list[int]:
    return [latent for latent, mean in enumerate(means_of(run).tolist()) if not np.isnan(mean)]


@pytest.mark.parametrize("dose", [-2.0, 0.5, 1.0, 30.0])
def test_a_part_is_removed_and_added_as_in_the_causal_checks(
    run: LiveRun, models: RunModels, dose: float
) -> None:
    some = [0, 3, 7, 11, 12, 13, 20]
    part = Part(latent_mask(some, N_LATENTS)).scaled(dose)
    prompt = encode_text(request().document(), models.pair)
    found = answers(run, latents=some, dose=dose)
    # Steering and necessity, as in `causal`.
    assert found["reference"]["steered"] == generated(models, run, prompt, PatchedRun(0, 0, part))
    assert found["intervened"]["steered"] == generated(models, run, prompt, PatchedRun(1, 1, part, -1))


@pytest.mark.parametrize("dose", [-1.0, 0.5, 4.0])
def test_a_constant_is_added_as_for_the_doses(run: LiveRun, models: RunModels, dose: float) -> None:
    """Compare with `PromptActivations.steering_direction`, the unit of doses, on a prompt that ends where one latent fires. The two units
    differ only by the ratio of its value there to its mean."""
    ids = encode_text(request().document(), models.pair).token_ids
    means = means_of(run)
    compared = 0
    for latent, place, weight in firings(run, models, ids)[:4]:
        prompt = Prompt("", ids[: place + 1])
        reading = PromptActivations.from_rows(
            *models, [Row(0, prompt.token_ids, place + 1)], run.config.tokens
        )
        direction = reading.steering_direction(Part(latent_mask([latent], N_LATENTS)))
        own = dose * weight / means[latent].item()
        edits = patched_runs(request(how="constant", latents=[latent], dose=own), models.view, means)
        for model, sign in enumerate((1, -1)):
            # As `dose_response` runs it.
            of_dose = PatchedRun(model, model, constant=sign * dose * direction)
            found, wanted = edits[model].constant, of_dose.constant
            assert found is not None and wanted is not None
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6) and wanted.norm() > 0
            assert generated(models, run, prompt, edits[model]) == generated(models, run, prompt, of_dose)
        compared += 1
    assert compared


def firings(run: LiveRun, models: RunModels, ids: np.ndarray) -> list[tuple[int, int, float]]:
    """Return firings of latents with a mean value, as (latent, position, weight), largest first."""
    reading = PromptActivations.from_rows(*models, [Row(0, ids, len(ids))], run.config.tokens)
    weights, places = reading.change(0).weights, reading.batches[0].kept[0].nonzero()[:, 0]
    found = zip(weights.latent.tolist(), places[weights.token].tolist(), weights.value.tolist(), strict=True)
    return sorted((one for one in found if one[0] in alive(run)), key=lambda one: -abs(one[2]))


@pytest.mark.parametrize("how", ["part", "constant"])
@pytest.mark.parametrize("dose", [0.5, -3.0])
def test_the_session_answers_with_these_edits(run: LiveRun, models: RunModels, how: str, dose: float) -> None:
    latents = alive(run)[:6]
    prompt = encode_text(request().document(), models.pair)
    edits = patched_runs(request(how=how, latents=latents, dose=dose), models.view, means_of(run))
    found = answers(run, how=how, latents=latents, dose=dose)
    assert [one["steered"] for one in found.values()] == [
        generated(models, run, prompt, edit) for edit in edits
    ]


@pytest.mark.parametrize("how", ["part", "constant"])
def test_a_large_dose_changes_the_answers(run: LiveRun, how: str) -> None:
    """Positive control."""
    found = answers(run, how=how, dose=60.0, latents=alive(run))
    assert found["reference"]["steered"] != found["reference"]["unsteered"]
    assert found["intervened"]["steered"] != found["intervened"]["unsteered"]


def test_unsteered_answers_are_not_those_of_another_prompt(run: LiveRun, models: RunModels) -> None:
    """Unsteered answers are cached for one prompt only."""
    for text in (TEXT, "rose", TEXT):
        prompt = encode_text(request(text=text).document(), models.pair)
        found = answers(run, text=text, dose=3.0)
        assert found["reference"]["unsteered"] == generated(models, run, prompt, unchanged(0))
        assert found["intervened"]["unsteered"] == generated(models, run, prompt, unchanged(1))
    short = answers(run, dose=3.0, max_new_tokens=2)
    assert len(short["intervened"]["unsteered"]) < len(answers(run)["intervened"]["unsteered"])


def test_the_number_of_changed_tokens_is_reported(run: LiveRun) -> None:
    reading = run.session.read(request())
    code = dense(reading, "change")
    for latents in ([0], [3, 7], list(range(N_LATENTS))):
        found = run.session.steer(request(latents=latents, max_new_tokens=1))
        assert found["fires_on"] == int((code[:, latents] > 0).any(axis=1).sum())
        assert found["n_read"] == sum(reading["read"])


def test_answers_are_cancelled_when_the_server_stops(run: LiveRun) -> None:
    session = type(run.session).load(run.folder, run.config)
    session.stop()
    with pytest.raises(CrosscoderError, match=r"^cancelled because the server is stopping$"):
        session.steer(request())
    # Reading a text is a single pass and is not cancelled.
    assert session.read(request())["tokens"]


def test_a_cancelled_answer_leaves_no_state_behind(run: LiveRun) -> None:
    expected, steps = answers(run, dose=2.0), iter(range(N_NEW + 3))

    def leave() -> None:
        if next(steps, None) is None:
            raise CrosscoderError("gone")

    with pytest.raises(CrosscoderError, match="gone"):
        run.session.steer(request(dose=2.0, text=TEXT + " pine"), leave)
    assert answers(run, dose=2.0) == expected


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    return make_live_run(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("latent", [-1, N_LATENTS, 10**9])
def test_a_nonexistent_latent_is_refused(plain: LiveRun, latent: int) -> None:
    for how in ("part", "constant"):
        with pytest.raises(
            DataError,
            match=rf"^latents: there is no latent {latent}; the dictionary has latents 0 to {N_LATENTS - 1}$",
        ):
            plain.session.steer(request(latents=[0, latent], how=how))


def test_a_dead_latent_has_no_mean_to_add(plain: LiveRun) -> None:
    models = TrainedRun(plain.folder, plain.config).models
    means = torch.ones(N_LATENTS, dtype=torch.float64)
    means[4] = float("nan")
    with pytest.raises(DataError, match=r"^latents: 4 is dead \(it fired on no held-out token\)"):
        patched_runs(request(how="constant", latents=[3, 4]), models.view, means)
    patched_runs(request(how="part", latents=[3, 4]), models.view, means)


def test_an_answer_that_does_not_fit_is_refused(plain: LiveRun) -> None:
    words = " ".join(["amber"] * 30)
    with pytest.raises(
        DataError, match=r"^max_new_tokens: the prompt has \d+ tokens and the models read at most 128"
    ):
        plain.session.steer(request(text=words, max_new_tokens=100))


@pytest.mark.parametrize(
    ("kind", "message"), [("tokenizer", "steering needs one tokenizer"), ("width", "share no space")]
)
def test_models_that_share_no_tokens_or_no_space_are_not_steered(
    tmp_path: Path, kind: str, message: str
) -> None:
    run = make_live_run(tmp_path, kind)
    assert message in run.session.facts()["no_steering"]
    with pytest.raises(DataError, match=f"^steering: .*{message}"):
        run.session.steer(request())
