import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscoder.config import BatchTopK, FileActivations, PairConfig, RunConfig
from crosscoder.config.load import load_config, with_overrides
from crosscoder.config.open_settings import HOOKPOINT, OPEN_SETTINGS, open_settings, with_choices
from crosscoder.errors import ConfigError
from crosscoder.run.folder import RunFolder
from tests.training.in_memory import planted_source, source_of
from training import recipe, stages
from training.doctor import doctor
from training.recipe import FURTHER_SHARE as FURTHER
from training.recipe import (
    LEAST_STEPS,
    brief_config,
    brief_sweep_share,
    candidate_ks,
    choices,
    resolved,
    with_k,
)
from training.schedules import learning_rate, n_steps
from training.stages import settle
from training.sweep import Point, brief_sweep, choose_k


def run_config(output: Path = Path("run"), *words: str) -> RunConfig:
    files = FileActivations(reference=Path("reference.npy"), intervened=Path("intervened.npy"))
    return with_overrides(RunConfig(output=output, activations=files), words)


PLANTED = ((48, 48), 135_000)
DEMO = ((576, 576), 118_572)
LARGE = ((2304, 2304), 100_000_000)
SHAPES = pytest.mark.parametrize(
    ("d_models", "n_tokens"), [PLANTED, DEMO, LARGE, ((8, 16), 300), ((4096,) * 3, 10**9)]
)


# --- the rule ---------------------------------------------------------------------------------------------------------


@SHAPES
def test_everything_but_k_is_chosen_once(d_models: tuple[int, ...], n_tokens: int) -> None:
    config = resolved(run_config(), d_models, n_tokens)
    assert open_settings(config) == ("crosscoder.sparsity.k",)
    assert choices(config, d_models, n_tokens) == []
    assert RunConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    "given",
    [
        "crosscoder.n_latents=321",
        "training.n_tokens=1234",
        "training.batch_tokens=77",
        "training.lr=0.25",
        "training.auxiliary={k: 3, dead_after_tokens: 11}",
        "crosscoder.sparsity={kind: topk, k: 5}",
        "crosscoder.sparsity={kind: relu, target_l0: 5}",
    ],
)
def test_what_the_settings_give_is_kept(given: str) -> None:
    config = run_config(Path("run"), given)
    found = resolved(config, *DEMO)
    assert with_overrides(found, [given]) == found
    assert not any(f"{'.'.join(choice.place)}=" in given for choice in choices(config, *DEMO))


def test_planted_pairs_get_the_recipe_of_the_benchmark() -> None:
    config = resolved(run_config(), *PLANTED)
    training = config.training
    assert (config.crosscoder.n_latents, training.batch_tokens, n_steps(training)) == (256, 256, 6000)
    assert training.lr == pytest.approx(5e-3, rel=0.35)
    assert training.auxiliary.k == 24
    assert training.auxiliary.dead_after_tokens == pytest.approx(50_000, rel=0.05)


def test_large_runs_get_what_is_published() -> None:
    config = resolved(run_config(Path("run"), "crosscoder.n_latents=16384"), *LARGE)
    training = config.training
    assert training.batch_tokens == 2048
    assert training.n_tokens == LARGE[1]
    assert training.lr is not None and 2e-4 <= training.lr <= 1e-3
    wide = resolved(run_config(), *LARGE)
    assert wide.crosscoder.n_latents is not None and 16_384 <= wide.crosscoder.n_latents <= 131_072
    assert wide.training.batch_tokens is not None and 2048 <= wide.training.batch_tokens <= 8192


def test_no_training_is_short_and_none_repeats_much_of_much_data() -> None:
    for tokens in (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9):
        training = resolved(run_config(), (512, 512), tokens).training
        assert training.n_tokens is not None
        assert n_steps(training) >= LEAST_STEPS
        assert training.n_tokens >= tokens
        if tokens >= 10**8:
            assert training.n_tokens == tokens


def test_more_data_and_wider_models_never_get_a_smaller_dictionary() -> None:
    def latents(width: int, tokens: int) -> int:
        found = resolved(run_config(), (width, width), tokens).crosscoder.n_latents
        assert found is not None
        return found

    sizes = [latents(512, tokens) for tokens in (10**3, 10**5, 10**7, 10**9)]
    assert sizes == sorted(set(sizes))
    sizes = [latents(width, 10**6) for width in (16, 128, 1024, 8192)]
    assert sizes == sorted(set(sizes))


def test_a_k_that_is_given_fits_into_the_dictionary() -> None:
    config = resolved(run_config(Path("run"), "crosscoder.sparsity.k=200"), (8, 8), 1000)
    assert config.crosscoder.n_latents == 1024
    assert RunConfig.model_validate(config.model_dump()) == config


@SHAPES
def test_candidates_for_k_descend_and_fit(d_models: tuple[int, ...], n_tokens: int) -> None:
    config = resolved(run_config(), d_models, n_tokens)
    ks = candidate_ks(config, d_models)
    assert list(ks) == sorted(set(ks), reverse=True)
    assert ks[-1] >= 1
    assert config.crosscoder.n_latents is not None and ks[0] <= config.crosscoder.n_latents
    RunConfig.model_validate(with_k(config, ks[0]).model_dump())


def test_an_open_setting_cannot_be_trained_with() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_tokens: left open"):
        n_steps(run_config(Path("run"), "training.n_tokens=10").training)
    with pytest.raises(ConfigError, match=r"training\.lr: left open"):
        learning_rate(0, run_config(Path("run"), "training={n_tokens: 10, batch_tokens: 1}").training)


# --- choices in the run folder ----------------------------------------------------------------------------------------

SHORT = (
    "training={n_tokens: 640, batch_tokens: 64, evaluate_every: 100, precision: float32}",
    "crosscoder.n_latents=32",
)


def test_the_run_writes_its_choices_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = planted_source()
    config = run_config(tmp_path, *SHORT, "crosscoder.sparsity.k=4")
    folder = RunFolder.create(tmp_path, config)
    _, settled = settle(folder, config, source)
    assert open_settings(settled) == ()
    assert load_config(folder.config) == settled
    assert settled.training.lr == pytest.approx(recipe.RATE_SCALE / 32**0.5, rel=0.05)

    # Until training starts, the rule applies anew; from then on, the run keeps its choices.
    monkeypatch.setattr(recipe, "RATE_SCALE", 1.0)
    _, anew = settle(folder, config, source)
    assert anew.training.lr == pytest.approx(1 / 32**0.5, rel=0.05)
    (folder.checkpoints / "step_00000001").mkdir(parents=True)
    monkeypatch.setattr(recipe, "RATE_SCALE", 2.0)
    again = RunFolder.create(tmp_path, config)
    _, resumed = settle(again, config, source)
    assert resumed == anew == load_config(folder.config)


def test_open_settings_stand_for_what_the_run_chose_and_no_other_value_does(tmp_path: Path) -> None:
    config = run_config(tmp_path, *SHORT, "crosscoder.sparsity.k=4")
    folder = RunFolder.create(tmp_path, config)
    _, settled = settle(folder, config, planted_source())
    (folder.checkpoints / "step_00000001").mkdir(parents=True)
    folder.require_same(config)
    with pytest.raises(ConfigError, match=r"training\.lr: the run in .* has 0\.01, but 0\.5 was requested"):
        RunFolder.create(tmp_path, with_overrides(config, ["training.lr=0.5"]))
    # A setting of the analysis may change, and the choices stay.
    changed = RunFolder.create(tmp_path, with_overrides(config, ["analysis.top_examples=3"]))
    assert changed.read_config().training == settled.training
    assert changed.read_config().analysis.top_examples == 3


def test_choices_are_taken_over_for_the_same_kind_of_sparsity() -> None:
    earlier = with_k(resolved(run_config(), *DEMO), 9)
    assert open_settings(with_choices(run_config(), earlier)) == ()
    other = with_choices(run_config(Path("run"), "crosscoder.sparsity.kind=topk"), earlier)
    assert open_settings(other) == ("crosscoder.sparsity.k",)
    relu = with_choices(run_config(Path("run"), "crosscoder.sparsity={kind: relu, target_l0: 3}"), earlier)
    assert open_settings(relu) == ()


def test_every_open_setting_is_null_by_default() -> None:
    """The hookpoint, too; without models there is none."""
    config = run_config()
    assert open_settings(config) == tuple(".".join(place) for place in OPEN_SETTINGS if place != HOOKPOINT)
    assert PairConfig.model_fields["hookpoint"].default is None


# --- k ----------------------------------------------------------------------------------------------------------------


def curve(monkeypatch: pytest.MonkeyPatch, explained: dict[int, tuple[float, float]]) -> list[int]:
    """Let the points of a sweep explain what `explained` says of the difference and of the models; return the list to which each k is
    added when it is trained."""
    trained: list[int] = []

    def chain(output: Path, config: RunConfig, source: Any, ks: tuple[int, ...], n_latents: int) -> Any:
        for k in ks:
            trained.append(k)
            yield Point(n_latents, k, *explained[k])

    monkeypatch.setattr("training.sweep._chain", chain)
    return trained


def test_a_brief_sweep_ends_below_the_elbow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(run_config(tmp_path), *PLANTED)
    ks = candidate_ks(config, (48, 48))
    explained = {k: (0.9 if k >= 4 else 0.5, 0.95) for k in ks}
    trained = curve(monkeypatch, explained)
    source = planted_source(d_model=48)
    k, why = brief_sweep(RunFolder.create(tmp_path, config), config, source)
    assert ks == (12, 8, 5, 4, 2, 1)
    assert k == 5  # the smallest of at least MARGIN times the elbow, which is 4
    assert trained == [12, 8, 5, 4, 2]
    assert why == (
        "1.2 times 4, the smallest k that explains the difference as well as larger ones (2: 50.0 %, 4: 90.0 %, 5: 90.0 %, "
        "8: 90.0 %, 12: 90.0 %)"
    )
    assert (tmp_path / "sweep" / "brief" / "sweep.json").is_file()


def points(fve: dict[int, float], explained: float = 0.9) -> list[Point]:
    return [Point(64, k, explained, value) for k, value in fve.items()]


def test_k_is_large_enough_for_the_variance_that_the_run_has_to_explain() -> None:
    curve = points({4: 0.6, 8: 0.7, 16: 0.8, 32: 0.9})
    assert choose_k(curve, 0.5)[0] == 5
    assert choose_k(curve, 0.8) == (
        16,
        "the smallest k that explains 80 % of each model (4: 60.0 %, 8: 70.0 %, 16: 80.0 %, 32: 90.0 %)",
    )
    # Halfway between 70 and 80 %: the geometric mean of 8 and 16, rounded up.
    assert choose_k(curve, 0.75)[0] == 12
    assert choose_k(curve, 0.9)[0] == 32
    k, why = choose_k(curve, 0.95)
    assert k == 32
    assert why.startswith("the largest k tried; none explains 95 % of each model")
    # A diff-SAE explains no model.
    assert choose_k(points(dict.fromkeys((4, 8, 16), math.nan)), 0.9)[0] == 5


def test_a_brief_sweep_ends_where_the_models_are_explained_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolved(run_config(tmp_path), *PLANTED)
    fve = {12: 0.8, 8: 0.72, 5: 0.68, 4: 0.6, 2: 0.4, 1: 0.2}
    trained = curve(monkeypatch, {k: (0.9, value) for k, value in fve.items()})
    k, _ = brief_sweep(RunFolder.create(tmp_path, config), config, planted_source(d_model=48))
    assert trained == [12, 8, 5, 4]
    assert k == 7


def test_models_that_do_not_differ_or_share_no_space_get_a_k_by_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolved(run_config(tmp_path), *PLANTED)
    curve(monkeypatch, dict.fromkeys(candidate_ks(config, (48, 48)), (math.nan, 0.9)))
    folder = RunFolder.create(tmp_path, config)
    assert brief_sweep(folder, config, planted_source(d_model=48)) == (
        6,
        "an eighth of the width: the models do not differ",
    )
    values = planted_source(d_model=48).sample(100)[:, :80]
    k, why = brief_sweep(folder, config, source_of(values, values, (48, 32)))
    assert k == 4
    assert "different widths" in why


def test_a_brief_sweep_costs_what_it_says(tmp_path: Path) -> None:
    config = resolved(run_config(tmp_path), *DEMO)
    n_further = len(candidate_ks(config, DEMO[0])) - 1
    assert brief_sweep_share(config, DEMO[0]) == pytest.approx(0.5 * (1 + FURTHER * n_further))
    large = resolved(run_config(tmp_path), *LARGE)
    assert brief_sweep_share(large, LARGE[0]) < 0.5
    assert n_steps(brief_config(large).training) == LEAST_STEPS // 2


@pytest.mark.slow
def test_a_brief_sweep_finds_how_many_features_fire(tmp_path: Path) -> None:
    config = run_config(
        tmp_path, "training={n_tokens: 300_000, batch_tokens: 128, precision: float32, device: cpu}"
    )
    source = planted_source(20_000)
    config = resolved(config, source.d_models, source.n_train_tokens)
    k, _ = brief_sweep(RunFolder.create(tmp_path, config), config, source)
    assert 4 <= k <= 8


# --- the stages -------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> RunConfig:
    """Settings of a short run on arrays of a planted pair, in which k, rate and auxiliary loss are open."""
    values = planted_source(2000).sample(2000).numpy()
    half = values.shape[1] // 2
    np.save(folder / "reference.npy", values[:, :half])
    np.save(folder / "intervened.npy", values[:, half:])
    files = FileActivations(reference=folder / "reference.npy", intervened=folder / "intervened.npy")
    config = RunConfig(output=folder / "run", activations=files)
    return with_overrides(config, [*SHORT, "training.device=cpu", "training.calibration_tokens=500"])


def test_training_settles_k_by_a_sweep_and_tells_every_stage(tmp_path: Path) -> None:
    config = with_overrides(
        files_of(tmp_path),
        ["controls={drift: true, intermittent: false, identity: false, shuffled: false, seeds: 0}"],
    )
    stages.train(config)
    folder = RunFolder.open(config.output)
    settled = folder.read_config()
    assert open_settings(settled) == ()
    assert isinstance(settled.crosscoder.sparsity, BatchTopK)
    assert settled.crosscoder.sparsity.k in candidate_ks(settled, (48, 48))
    control = RunFolder(folder.path / "controls" / "drift").read_config()
    assert control.crosscoder == settled.crosscoder
    assert control.training == settled.training.model_copy(update={"start_from": None})
    # The same settings again, with k still open in them: no point of the sweep and no control is trained anew.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*/k_*/crosscoder/model.safetensors")}
    assert before
    stages.train(config)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert folder.read_config() == settled


def test_doctor_tells_the_recipe_and_why(tmp_path: Path) -> None:
    config = with_overrides(files_of(tmp_path), ["crosscoder.n_latents=null"])
    text = doctor(config)
    assert "training.lr 0.0071 (0.0566 / √64)" in text
    assert "crosscoder.sparsity.k by a short sweep over 12, 8, 5," in text
    given = doctor(with_overrides(resolved(config, (48, 48), 1800), ["crosscoder.sparsity.k=4"]))
    assert "every setting is given" in given
