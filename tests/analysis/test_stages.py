"""The stages on pairs with known differences."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis import stages
from analysis.tables.analysis_files import FEATURE_COLUMNS, load_results
from analysis.tables.columns import HISTOGRAMS
from crosscoder.config import (
    AnalysisConfig,
    BatchTopK,
    Conditions,
    ControlsConfig,
    DictionaryConfig,
    FileActivations,
    LabelRule,
    RunConfig,
)
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.dictionary.views import View, crosscoder_config, view_rows
from crosscoder.errors import FormatError
from crosscoder.planted import SMALL, PlantedPair, exact_dictionary
from crosscoder.run.folder import RunFolder

from .table_checks import described

# The dictionaries are constructed, so no other training could find their latents again.
SETTINGS = AnalysisConfig(
    top_examples=3,
    quantile_examples=2,
    context_tokens=4,
    bootstrap_samples=200,
    rule=LabelRule(replications=0),
    # Nor do they fire on the number of latents that their settings name, or explain more than what was planted.
    conditions=Conditions(fve=0.0, l0_deviation=100.0),
)
WIDTH = 48


def make_run(
    path: Path, values: Tensor, crosscoder: Crosscoder, reads: View = "paired"
) -> tuple[RunFolder, RunConfig]:
    path.mkdir(parents=True)
    d_model = values.shape[1] // 2
    for name, part in zip(("reference", "intervened"), values.split(d_model, dim=1), strict=True):
        np.save(path / f"{name}.npy", part.numpy())
    np.save(path / "documents.npy", np.arange(len(values)) // 50)
    config = RunConfig(
        output=path / "run",
        activations=FileActivations(
            reference=path / "reference.npy",
            intervened=path / "intervened.npy",
            documents=path / "documents.npy",
            held_out=0.5,
        ),
        crosscoder=DictionaryConfig(
            reads=reads, n_latents=crosscoder.config.n_latents, sparsity=crosscoder.config.sparsity
        ),
        controls=ControlsConfig.none(),
        analysis=SETTINGS,
    )
    folder = RunFolder.create(config.output, config)
    save_crosscoder(crosscoder, folder.crosscoder)
    return folder, config


def analyzed(
    path: Path, values: Tensor, crosscoder: Crosscoder, reads: View = "paired"
) -> tuple[Any, dict[str, Any]]:
    folder, config = make_run(path, values, crosscoder, reads)
    stages.analyze(folder, config)
    return features_of(folder), load_results(folder).summary


def features_of(folder: RunFolder) -> Any:
    """The feature table, as Any, because pandas columns are untyped."""
    return load_results(folder).features


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlantedPair, RunFolder]:
    pair = PlantedPair(counts=SMALL)
    folder, config = make_run(
        tmp_path_factory.mktemp("run") / "planted", pair.sample(20_000), pair.dictionary(extra_latents=2)
    )
    stages.analyze(folder, config)
    return pair, folder


def test_every_planted_edit_gets_its_label(planted: tuple[PlantedPair, RunFolder]) -> None:
    pair, folder = planted
    results = load_results(folder)
    assert features_of(folder)["label"].tolist() == [*pair.truth.kinds, "dead", "dead"]
    assert {label: entry["count"] for label, entry in results.summary["counts"].items()} == {
        **SMALL,
        "dead": 2,
        "replaced": 0,
        "reweighted": 0,
        "undetermined": 0,
    }
    assert features_of(folder)["evidence"].unique().tolist() == ["observed"]


def test_the_table_has_the_columns_of_the_contract(planted: tuple[PlantedPair, RunFolder]) -> None:
    _, folder = planted
    features = features_of(folder)
    assert set(FEATURE_COLUMNS) <= set(features)
    assert {
        "density/files",
        "nu_error_new",
        "nu_error_lost",
        "nu_error_low",
        "density_high",
        "relative_norm_raw",
    } <= set(features)
    assert features["q_value"].between(0, 1).all()
    assert (features["q_value"][features["label"].isin(["new", "lost"])] <= 0.05).all()
    assert features["seed_stability"].isna().all(), "no other seeds were trained"
    dead = features[features["label"] == "dead"]
    for name in (
        "nu_error",
        "nu_reconstruction",
        "mean_activation",
        "max_activation",
        "nu_error_low",
        "twin",
    ):
        assert dead[name].isna().all(), name
    alive = features[features["label"] != "dead"]
    for name in ("density", "shift_share", "nu_error", "nu_reconstruction"):
        assert (alive[f"{name}_low"] <= alive[name] + 1e-12).all(), name
        assert (alive[name] <= alive[f"{name}_high"] + 1e-12).all(), name


def test_the_shift_is_accounted_for(planted: tuple[PlantedPair, RunFolder]) -> None:
    """Latents, bias and error add up to 1, and only changed features explain the shift."""
    pair, folder = planted
    results = load_results(folder)
    assert sum(results.summary["shift"].values()) == pytest.approx(1, abs=1e-5)
    assert features_of(folder)["shift_share"].sum() == pytest.approx(
        results.summary["shift"]["latents"], abs=1e-9
    )
    shared = [kind == "shared" for kind in pair.truth.kinds]
    assert features_of(folder)["shift_share"][:20][shared].abs().max() < 1e-6
    assert features_of(folder)["shift_share"][:20][~np.array(shared)].min() > 0.01


def test_numbers_of_the_summary(planted: tuple[PlantedPair, RunFolder]) -> None:
    pair, folder = planted
    summary = json.loads(folder.summary.read_text())
    assert summary["n_tokens"] == 10_000
    assert summary["n_documents"] == 200
    assert summary["sources"] == {"files": {"documents": 200, "tokens": 10_000}}
    assert (summary["alive"], summary["n_latents"], summary["dead_share"]) == (20, 22, pytest.approx(1 / 11))
    assert summary["l0"] == pytest.approx(pair.true_l0, rel=0.1)
    assert summary["fve"]["reference"] > 0.9
    assert summary["fve"]["difference"] > 0.8
    assert sum(summary["relative_norm_histogram"]["counts"]) == 20
    assert summary["ce"] is None
    assert folder.read_manifest()["stages"]["analyze"]["finished"]


def test_cross_entropy_is_taken_from_training(planted: tuple[PlantedPair, RunFolder], tmp_path: Path) -> None:
    pair, _ = planted
    folder, config = make_run(tmp_path / "ce", pair.sample(4000), pair.dictionary())
    folder.update_manifest("evaluation", {"ce": {"reference": {"clean": 2.0}}})
    stages.analyze(folder, config)
    assert load_results(folder).summary["ce"] == {"reference": {"clean": 2.0}}


def test_exchanged_models_exchange_the_labels_exactly(
    planted: tuple[PlantedPair, RunFolder], tmp_path: Path
) -> None:
    pair, folder = planted
    dictionary = pair.dictionary(extra_latents=2)
    values = pair.sample(20_000)
    state = dictionary.state_dict()
    order = torch.cat([torch.arange(WIDTH, 2 * WIDTH), torch.arange(WIDTH)])
    for name in ("b_dec", "mean"):
        state[name] = state[name][order]
    state |= {"W_enc": state["W_enc"][order], "W_dec": state["W_dec"][:, order]}
    state |= {name: state[name].flip(0) for name in ("scale", "score_scale")}
    dictionary.load_state_dict(state)
    swapped, _ = analyzed(tmp_path / "swapped", values[:, order], dictionary)
    plain = features_of(folder)
    names = {"new": "lost", "lost": "new"}
    assert swapped["label"].tolist() == [names.get(label, label) for label in plain["label"]]
    assert np.allclose(swapped["relative_norm"], 1 - plain["relative_norm"], equal_nan=True)
    assert np.allclose(swapped["nu_error_new"], plain["nu_error_lost"], atol=1e-4, equal_nan=True)
    assert np.allclose(swapped["shift_share"], plain["shift_share"], atol=1e-6)


def test_a_null_pair_has_neither_new_nor_lost(tmp_path: Path) -> None:
    """Even if norms suggest differences: latent scaling does not confirm them."""
    pair = PlantedPair(counts=SMALL)
    values = pair.null().sample(10_000)
    features, summary = analyzed(tmp_path / "null", values, pair.null().dictionary())
    assert features["label"].tolist() == ["shared"] * 20
    claimed, _ = analyzed(tmp_path / "claimed", values, pair.dictionary())
    assert not set(claimed["label"]) & {"new", "lost"}
    exclusive = [kind in ("new", "lost") for kind in pair.truth.kinds]
    assert claimed["reason"][exclusive].str.contains("complete shrinkage").all()
    assert summary["counts"]["shared"]["count"] == 20


def test_identical_models(tmp_path: Path) -> None:
    pair = PlantedPair(counts=SMALL)
    half = pair.sample(6000)[:, :WIDTH]
    features, summary = analyzed(tmp_path / "identity", half.repeat(1, 2), pair.null().dictionary())
    assert not set(features["label"]) & {"new", "lost", "rotated", "rescaled"}
    assert features["shift_share"].isna().all()
    assert summary["fve"]["difference"] is None
    assert summary["shift"] == {"latents": None, "bias": None, "error": None}


def test_a_dictionary_that_never_fires(tmp_path: Path) -> None:
    pair = PlantedPair(counts=SMALL)
    dictionary = pair.dictionary()
    dictionary.sparsity.get_buffer("threshold").fill_(1e6)
    features, summary = analyzed(tmp_path / "dead", pair.sample(2000), dictionary)
    assert set(features["label"]) == {"dead"}
    assert summary["dead_share"] == 1
    assert summary["alive"] == 0
    assert len(load_results(RunFolder(tmp_path / "dead" / "run")).examples()) == 0


def test_permuting_the_latents_permutes_the_rows(
    planted: tuple[PlantedPair, RunFolder], tmp_path: Path
) -> None:
    pair, folder = planted
    dictionary = pair.dictionary(extra_latents=2)
    order = torch.randperm(22, generator=torch.Generator().manual_seed(0))
    state = dictionary.state_dict()
    state |= {
        "W_dec": state["W_dec"][order],
        "W_enc": state["W_enc"][:, order],
        "b_enc": state["b_enc"][order],
    }
    dictionary.load_state_dict(state)
    permuted, _ = analyzed(tmp_path / "permuted", pair.sample(20_000), dictionary)
    plain = features_of(folder).iloc[order.numpy()].reset_index(drop=True)
    assert permuted["label"].tolist() == plain["label"].tolist()
    assert permuted["n_documents"].tolist() == plain["n_documents"].tolist()
    for name in ("density", "density_low", "nu_error", "nu_error_high", "shift_share", "mean_activation"):
        assert np.allclose(permuted[name], plain[name], atol=1e-5, equal_nan=True), name


def test_the_same_command_twice_writes_the_same(
    planted: tuple[PlantedPair, RunFolder], tmp_path: Path
) -> None:
    pair, folder = planted
    again, config = make_run(tmp_path / "again", pair.sample(20_000), pair.dictionary(extra_latents=2))
    stages.analyze(again, config)
    for name in (
        "features.parquet",
        "examples.parquet",
        "logits.parquet",
        "histograms.parquet",
        "summary.json",
    ):
        assert (folder.analysis / name).read_bytes() == (again.analysis / name).read_bytes(), name


@pytest.mark.parametrize("reads", ["pooled", "difference"])
def test_dictionaries_with_one_direction_a_latent(reads: View, tmp_path: Path) -> None:
    """They have no pair of norms to compare, so no latent is new or lost; their own columns exist."""
    pair = PlantedPair(counts=SMALL)
    values = pair.sample(10_000)
    config = DictionaryConfig(reads=reads, n_latents=12, sparsity=BatchTopK(k=1))
    crosscoder = Crosscoder(crosscoder_config(config, (WIDTH, WIDTH)))
    rows = view_rows(values, (WIDTH, WIDTH), reads)
    crosscoder.set_normalization(rows)
    crosscoder.calibrate(rows)
    features, summary = analyzed(tmp_path / reads, values, crosscoder, reads)
    assert set(features["label"]) <= {"undetermined", "dead"} | (
        {"reweighted", "shared"} if reads == "pooled" else set()
    )
    assert features["norm_reference"].isna().all()
    assert features["relative_norm"].isna().all()
    assert sum(summary["shift"].values()) == pytest.approx(1, abs=1e-4)
    assert summary["relative_norm_histogram"] is None
    if reads == "pooled":
        assert features["nu_error"].isna().all()
        assert (features["density_reference"] <= features["density"] + 1e-12).all()
        assert features["density_intervened"].max() > 0
        assert None not in summary["fve"].values()
    else:
        assert features["nu_error"].notna().any()
        assert summary["fve"]["reference"] is None
        assert summary["fve"]["difference"] is not None


@pytest.mark.parametrize(("cosine", "label"), [(0.7, "new"), (0.85, "undetermined"), (0.95, "reweighted")])
def test_a_direction_near_one_of_the_other_model_is_not_new(
    tmp_path: Path, cosine: float, label: str
) -> None:
    """Five features of both models, and one of the intervened model only, whose direction is similar to the first."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q[:6]
    intervened = basis.clone()
    intervened[5] = cosine * basis[0] + (1 - cosine**2) ** 0.5 * basis[5]
    reference = basis.clone()
    reference[5] = 0
    rows = torch.cat([reference, intervened], dim=1)
    magnitudes = 0.5 + torch.rand(20_000, 6, generator=generator)
    fires = torch.rand(20_000, 6, generator=generator) < 0.1
    values = magnitudes * fires @ rows + 0.01 * torch.randn(20_000, 2 * WIDTH, generator=generator)
    config = DictionaryConfig(n_latents=6, sparsity=BatchTopK(k=1))
    crosscoder = exact_dictionary(crosscoder_config(config, (WIDTH, WIDTH)), rows, values)
    features, _ = analyzed(tmp_path / "near", values, crosscoder)
    assert features["label"].tolist() == ["shared"] * 5 + [label]
    assert features["twin"][5] == 0
    assert features["twin_cosine"][5] == pytest.approx(cosine, abs=1e-3)
    if label != "new":
        nearness = "a similar direction" if cosine < 0.9 else "the same direction"
        assert f"another latent writes {nearness} (cosine {cosine:.2f})" in features["reason"][5]


def test_a_shared_dictionary_finds_features_with_another_rate(tmp_path: Path) -> None:
    """A shared-dictionary SAE with the true directions: reweighted features fire three times as often in one model, or spread more."""
    pair = PlantedPair(counts={"shared": 8, "reweighted": 6})
    values = pair.sample(30_000)
    config = DictionaryConfig(reads="pooled", n_latents=14, sparsity=BatchTopK(k=1))
    rows = view_rows(values, (WIDTH, WIDTH), "pooled")
    crosscoder = exact_dictionary(crosscoder_config(config, (WIDTH, WIDTH)), pair.truth.reference, rows)
    features, summary = analyzed(tmp_path / "pooled", values, crosscoder, "pooled")
    assert (features["label"][:8] == "shared").all()
    reference, intervened = pair.truth.model_rates
    more = torch.maximum(reference, intervened) / torch.minimum(reference, intervened)
    expected = ["reweighted" if ratio > 2 else "shared" for ratio in more[8:].tolist()]
    assert features["label"][8:].tolist() == expected
    assert expected.count("reweighted") >= 2
    truth = (intervened / (reference + intervened)).numpy()
    assert np.abs(features["relative_rate"] - truth).max() < 0.05
    assert ((features["relative_rate_low"] <= truth) & (truth <= features["relative_rate_high"])).mean() > 0.7
    assert summary["counts"]["reweighted"]["count"] == expected.count("reweighted")
    of_models = [float(features[f"density_{model}"].sum()) for model in ("reference", "intervened")]
    assert summary["l0"] == pytest.approx(sum(of_models) / 2), (
        "each model has its own code, and k is for each"
    )
    assert summary["l0"] < features["density"].sum()


def test_a_diff_sae_measures_which_model_holds_its_direction(tmp_path: Path) -> None:
    """A diff-SAE with the true directions: new ones have no activation in the reference, lost ones none in the intervened model."""
    pair = PlantedPair(counts={"shared": 8, "rotated": 0, "rescaled": 0, "new": 3, "lost": 3})
    values = pair.sample(20_000)
    shift = pair.truth.intervened - pair.truth.reference
    changed = shift.norm(dim=1) > 0
    config = DictionaryConfig(reads="difference", n_latents=6, sparsity=BatchTopK(k=1))
    rows = view_rows(values, (WIDTH, WIDTH), "difference")
    crosscoder = exact_dictionary(crosscoder_config(config, (WIDTH, WIDTH)), shift[changed], rows)
    features, _ = analyzed(tmp_path / "difference", values, crosscoder, "difference")
    new, lost = features[:3], features[3:]
    assert new["nu_error_new"].abs().max() < 0.05
    assert new["beta_intervened"].sub(1).abs().max() < 0.05
    assert lost["beta_reference"].add(1).abs().max() < 0.05
    assert lost["beta_intervened"].abs().max() < 0.05
    # The rest of the shift is noise, which no latent explains.
    signal = (pair.magnitudes(20_000) @ shift).square().sum() / rows.square().sum()
    assert features["shift_share"].sum() == pytest.approx(float(signal), abs=0.02)


def test_examples_and_tables_are_readable(planted: tuple[PlantedPair, RunFolder]) -> None:
    _, folder = planted
    results = load_results(folder)
    examples = results.examples([3]).to_pylist()
    assert len(examples) == SETTINGS.top_examples + SETTINGS.quantile_examples
    assert all(row["source"] == "files" for row in examples)
    assert results.logits().num_rows == 0
    described(folder.histograms, HISTOGRAMS)
    for latent in range(20):
        histogram = results.histograms.of(latent)
        assert histogram is not None
        assert list(histogram.counts) == ["files"]
        assert sum(histogram.counts["files"]) == features_of(folder)["n_tokens"][latent]
    assert features_of(folder)["explanation"].str.len().min() > 10


def test_a_missing_dictionary_is_named(tmp_path: Path) -> None:
    pair = PlantedPair(counts=SMALL)
    folder, config = make_run(tmp_path / "run", pair.sample(2000), pair.dictionary())
    (folder.crosscoder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"config\.json: not found"):
        stages.analyze(folder, config)
