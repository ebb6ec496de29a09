"""The runner: cases, resuming, and tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.planted_benchmark.benchmark import evaluate_planted
from analysis.planted_benchmark.cases import METHODS, Case, case_config, plan
from analysis.planted_benchmark.results import agreement, false_share, spread
from crosscoder.config import (
    BatchTopK,
    ControlsConfig,
    DictionaryConfig,
    FileActivations,
    ReLU,
    RunConfig,
    TrainingConfig,
)
from crosscoder.errors import ConfigError, DivergedError, FormatError
from crosscoder.planted import PlantedPair
from crosscoder.planted.regimes import REGIMES, regime_named
from crosscoder.run.folder import RunFolder

N_TOKENS = 600


def make_run(config: RunConfig) -> RunFolder:
    """Reads the arrays as training would, and creates an empty run folder."""
    folder = RunFolder.create(config.output, config)
    sides = [np.load(config.output.parent / f"{name}.npy") for name in ("reference", "intervened")]
    assert all(side.shape == (N_TOKENS, 48) for side in sides)
    return folder


def make_score(folder: RunFolder, pair: PlantedPair) -> Mapping[str, Any]:
    """Scores that identify the case: features found by its restart."""
    restart = int(folder.path.parent.name.rpartition("-r")[2]) if "-r" in folder.path.parent.name else 0
    kinds = {"new": {"count": 1.0, "f1": 0.5, "precision": None}}
    labeler = {
        "kinds": kinds,
        "mean_f1": 0.5,
        "claimed": 1,
        "false": 1,
        "changes": 3,
        "false_changes": 2,
        "false_by_label": {"rotated": 1, "new": 1},
        "found": [1, 2 + restart],
        "confusion": {},
    }
    return {
        "labelers": {"rule": labeler},
        "fve": {"difference": 0.9},
        "l0": pair.true_l0,
        "errors": {},
        "mcc": 1.0,
    }


def evaluate(cases: list[Case], output: Path, run: Any = make_run, **options: Any) -> list[dict[str, Any]]:
    return evaluate_planted(cases, run, make_score, output, n_tokens=N_TOKENS, **options)


def test_a_finished_case_is_not_run_again(tmp_path: Path) -> None:
    ran: list[str] = []

    def counting(config: RunConfig) -> RunFolder:
        ran.append(config.output.parent.name)
        return make_run(config)

    cases = plan(["standard", "null_noise"], ["batch_topk", "l1"], ["4"], [0])
    first = evaluate(cases[:2], tmp_path, counting)
    assert ran == ["standard-batch_topk-k4-s0", "standard-l1-k4-s0"]
    both = evaluate(cases, tmp_path, counting)
    assert ran[2:] == ["null_noise-batch_topk-k4-s0", "null_noise-l1-k4-s0"]
    assert both[:2] == first
    assert evaluate(cases, tmp_path, counting) == both and len(ran) == 4
    assert not list(tmp_path.rglob("*.npy"))
    rows = pd.read_parquet(tmp_path / "results.parquet")
    assert rows["regime"].tolist() == ["standard"] * 2 + ["null_noise"] * 2
    assert rows["labelers/rule/kinds/new/f1"].tolist() == [0.5] * 4
    text = (tmp_path / "results.md").read_text()
    assert "## standard" in text and "false new+lost" in text and "| l1 | 4 | rule | 1 |" in text


def test_the_tables_include_results_of_other_commands(tmp_path: Path) -> None:
    evaluate(plan(["null_noise", "standard"], ["l1"], ["4"], [1]), tmp_path)
    assert len(evaluate(plan(["standard"], ["batch_topk", "l1"], ["4"], [0]), tmp_path)) == 2
    rows = pd.read_parquet(tmp_path / "results.parquet")
    assert list(zip(rows.regime, rows.method, rows.seed, strict=True)) == [
        ("standard", "batch_topk", 0), ("standard", "l1", 0), ("standard", "l1", 1), ("null_noise", "l1", 1),
    ]  # fmt: skip
    assert "| l1 | 4 | rule | 2 |" in (tmp_path / "results.md").read_text()


def test_in_short_every_method_has_a_row_and_every_regime_a_column(tmp_path: Path) -> None:
    evaluate(plan(["null_noise", "standard"], ["l1"], ["4"], [0, 1]), tmp_path)
    evaluate(plan(["standard"], ["topk"], ["4", "6"], [0]), tmp_path)
    text = (tmp_path / "results.md").read_text()
    table = text.partition("## In short")[2].partition("## standard")[0]
    assert "| method | k | labels | standard | null_noise | false of claimed |" in table
    assert "| l1 | 4 | rule | 0.50 | 1.00 | 4 of 4 (" in table
    assert "| topk | 4 | rule | 0.50 |  | 1 of 1 (" in table
    assert "| topk | 6 | rule | 0.50 |  | 1 of 1 (" in table


def test_cases_of_one_row_have_the_same_settings(tmp_path: Path) -> None:
    evaluate(plan(["standard"], ["l1"], ["4"], [0]), tmp_path)
    evaluate(plan(["standard"], ["topk"], ["4"], [0]), tmp_path, overrides=["training.lr=1e-3"])
    with pytest.raises(ConfigError, match="l1-k4-s0 and standard-l1-k4-s1 were made with different settings"):
        evaluate(plan(["standard"], ["l1"], ["4"], [1]), tmp_path, overrides=["training.lr=1e-3"])


def test_an_interrupted_benchmark_resumes(tmp_path: Path) -> None:
    cases = plan(["standard"], ["batch_topk"], ["4", "6", "8"], [0])

    def interrupted(config: RunConfig) -> RunFolder:
        if "-k6-" in str(config.output):
            raise KeyboardInterrupt
        return make_run(config)

    with pytest.raises(KeyboardInterrupt):
        evaluate(cases, tmp_path, interrupted)
    assert sorted(path.parent.name for path in tmp_path.rglob("result.json")) == [cases[0].name]
    assert len(evaluate(cases, tmp_path)) == 3


def test_several_workers_give_the_results_of_one(tmp_path: Path) -> None:
    cases = plan(["standard"], ["batch_topk"], ["4", "6"], [0])
    alone, together = evaluate(cases, tmp_path / "a"), evaluate(cases, tmp_path / "b", workers=2)
    for result in (*alone, *together):
        del result["seconds"]
    assert alone == together


def test_a_failed_case_is_reported_and_the_others_continue(tmp_path: Path) -> None:
    def diverging(config: RunConfig) -> RunFolder:
        if config.crosscoder.sparsity.kind == "topk":
            raise DivergedError("training.lr: loss is not finite")
        return make_run(config)

    failed, done = evaluate(plan(["standard"], ["topk", "batch_topk"], ["4"], [0]), tmp_path, diverging)
    assert failed["failed"] == "training.lr: loss is not finite" and "scores" not in failed
    assert "scores" in done
    assert "- topk, k 4, seed 0: training.lr: loss is not finite" in (tmp_path / "results.md").read_text()


def test_a_result_with_other_settings_is_refused(tmp_path: Path) -> None:
    cases = plan(["standard"], ["batch_topk"], ["4"], [0])
    evaluate(cases, tmp_path)
    with pytest.raises(ConfigError, match="made with other settings"):
        evaluate(cases, tmp_path, overrides=["training.lr=1e-3"])
    (tmp_path / "cases" / cases[0].name / "result.json").write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        evaluate(cases, tmp_path)


def test_every_method_is_a_config(tmp_path: Path) -> None:
    pair = PlantedPair(0)
    for method in METHODS:
        config = case_config(Case("standard", method, "true", 0), pair, tmp_path)
        sparsity = config.crosscoder.sparsity
        expected = round(pair.truth.l0(config.crosscoder.reads))
        assert (sparsity.k if hasattr(sparsity, "k") else sparsity.target_l0) == expected  # pyright: ignore
    assert isinstance(case_config(Case("standard", "l1", "5", 0), pair, tmp_path).crosscoder.sparsity, ReLU)


def test_k_in_every_form(tmp_path: Path) -> None:
    """A number, the true L0 (4.11), multiples of it; never below one."""
    for k, expected in {"6": 6, "true": 4, "1.5x": 6, ".75x": 3, "0.1x": 1, "2x": 8}.items():
        sparsity = case_config(
            Case("standard", "batch_topk", k, 0), PlantedPair(0), tmp_path
        ).crosscoder.sparsity
        assert isinstance(sparsity, BatchTopK) and sparsity.k == expected
    for wrong in ("0", "x", "0x", "-2", "many", "1.5"):
        with pytest.raises(ConfigError, match="not a number of latents"):
            Case("standard", "batch_topk", wrong, 0)


def test_a_sweep_chooses_k_without_the_truth(tmp_path: Path) -> None:
    """A method without k has as its target L0 the k that a sweep of BatchTopK chose."""
    swept: list[tuple[str, int]] = []

    def choose(config: RunConfig, ks: Any) -> int:
        sparsity = config.crosscoder.sparsity
        assert isinstance(sparsity, BatchTopK) and sparsity.k == max(ks)
        swept.append((config.output.parent.name, len(ks)))
        return 7

    found: list[float] = []

    def looking(config: RunConfig) -> RunFolder:
        sparsity = config.crosscoder.sparsity
        found.append(sparsity.target_l0 if isinstance(sparsity, ReLU) else sparsity.k)  # pyright: ignore
        return make_run(config)

    cases = plan(["standard"], ["batch_topk", "l1"], ["sweep"], [0])
    results = evaluate(cases, tmp_path, looking, choose=choose)
    assert [name for name, _ in swept] == [case.name for case in cases]
    assert found == [7, 7] and [result["k"] for result in results] == [7, 7]
    assert (
        evaluate(cases, tmp_path, looking) == results and len(found) == 2
    )  # finished: nothing is swept again
    rows = pd.read_parquet(tmp_path / "results.parquet")
    assert rows["k"].tolist() == ["sweep"] * 2 and rows["k_chosen"].tolist() == [7, 7]
    assert "| l1 | sweep | 7.0 | rule | 1 |" in (tmp_path / "results.md").read_text()


def labeled(pair: int, false: int, claimed: int) -> tuple[dict[str, int], dict[str, int]]:
    """A result of a pair, and the scores of its labeler."""
    return {"pair_seed": pair}, {"false": false, "claimed": claimed}


def test_the_realized_share_of_false_labels_has_an_interval_for_pairs() -> None:
    """Repeated trainings on one pair are one cluster: they add labels, and no certainty that other pairs are alike."""
    four = [labeled(pair, false, 20) for pair, false in enumerate((1, 0, 2, 1))]
    repeated = [labeled(pair, false, 20) for pair, false in enumerate((1, 0, 2, 1)) for _ in range(3)]
    shares = [false_share(runs) for runs in (four, repeated)]
    assert shares[0].startswith("4 of 80 (") and shares[1].startswith("12 of 240 (")
    highest = [float(share.split()[-2]) for share in shares]
    single = false_share([labeled(pair, false, 20) for pair, false in enumerate((1, 0, 2, 1) * 3)])
    assert highest[1] > 2 * float(single.split()[-2])
    assert false_share([labeled(0, 0, 0)]) == "0 of 0" and false_share([]) == "0 of 0"
    assert false_share([labeled(0, 1, 40), labeled(0, 0, 38)]) == "1 of 78 (0.0 to 100.0 %)"


def test_no_draw_is_used_twice(tmp_path: Path) -> None:
    """Pairs of different regimes or numbers have seeds of their own, as have trainings; methods share the pair and the seed."""
    cases = plan(REGIMES, ["batch_topk", "l1"], ["4"], range(20), restarts=3)
    pairs = {(case.regime, case.seed): case.pair_seed for case in cases}
    trainings = {(case.regime, case.seed, case.restart): case.training_seed for case in cases}
    assert len(set(pairs.values())) == len(pairs) == 20 * len(REGIMES)
    assert len(set(trainings.values())) == len(trainings) == 3 * len(pairs)
    assert set(pairs.values()).isdisjoint(trainings.values())
    for case in cases:
        assert pairs[case.regime, case.seed] == case.pair_seed
    standard, undercomplete = (
        Case(name, "l1", "4", 0).pair.truth.reference for name in ("standard", "undercomplete")
    )
    assert not torch.allclose(standard, undercomplete, atol=0.1)


def test_a_result_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    evaluate(plan(["standard"], ["l1"], ["4"], [0]), tmp_path)
    path = next(tmp_path.rglob("result.json"))
    result = json.loads(path.read_text())
    del result["pair_seed"]
    path.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="made by an earlier version"):
        evaluate(plan(["standard"], ["topk"], ["4"], [0]), tmp_path)


def test_a_regime_can_need_more_tokens_and_shorter_documents(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def looking(config: RunConfig) -> RunFolder:
        assert isinstance(config.activations, FileActivations) and config.activations.documents is not None
        documents = np.load(config.activations.documents)
        seen.append((len(np.load(config.activations.reference)), int(np.bincount(documents)[0])))
        return RunFolder.create(config.output, config)

    first, second = evaluate(plan(["standard", "local"], ["l1"], ["4"], [0]), tmp_path, looking)
    assert seen == [(N_TOKENS, 256), (4 * N_TOKENS, 64)]
    assert (first["n_tokens"], second["n_tokens"]) == (N_TOKENS, 4 * N_TOKENS)
    assert not list(tmp_path.rglob("*.npy"))


def test_false_labels_of_change_have_their_own_table(tmp_path: Path) -> None:
    """Every kind counts, per dictionary; null regimes also together, by pairs."""
    evaluate(plan(["standard", "null_noise", "null_bursts"], ["l1"], ["4"], [0, 1]), tmp_path)
    text = (tmp_path / "results.md").read_text()
    table = text.partition("## False labels of change")[2].partition("## standard")[0]
    assert (
        "| method | k | labels | standard | null_noise | null_bursts | null | false of all changes |" in table
    )
    assert (
        "| l1 | 4 | rule | 2.00 | 2.00 | 2.00 | 2.00 in 4, at most 2; 4 of 4 pairs (40 to 100 %) | 12 of 18 ("
        in table
    )
    assert "| false changes |" in text.partition("## null_bursts")[2]
    columns = pd.read_parquet(tmp_path / "results.parquet").columns
    assert {"labelers/rule/changes", "labelers/rule/false_changes"} <= set(columns)


def test_a_case_is_trained_by_a_users_defaults(tmp_path: Path) -> None:
    """Apart from device, precision and records. The number of latents follows the data, unless the regime is about it."""
    case = Case("standard", "batch_topk", "default", 0)
    config = case_config(case, case.pair, tmp_path)
    training, defaults = config.training, TrainingConfig()
    ours = {"device", "precision", "log_every", "evaluate_every", "checkpoint_every"}
    differing = {
        name for name in type(training).model_fields if getattr(training, name) != getattr(defaults, name)
    }
    assert differing <= ours
    assert config.crosscoder == DictionaryConfig() and config.controls == ControlsConfig()
    few = Case("undercomplete", "batch_topk", "6", 0)
    assert case_config(few, few.pair, tmp_path).crosscoder.n_latents == 64


def test_a_method_without_k_needs_a_number(tmp_path: Path) -> None:
    case = Case("standard", "l1", "default", 0)
    with pytest.raises(ConfigError, match="target_l0"):
        case_config(case, case.pair, tmp_path)


def test_cases(tmp_path: Path) -> None:
    cases = plan(["standard", "rare"], ["batch_topk"], ["true", "6"], [0, 1], restarts=2)
    assert len(cases) == len({case.name for case in cases}) == 16
    for case in cases:
        assert case_config(case, PlantedPair(0), tmp_path).seed == case.training_seed
    undercomplete = Case("undercomplete", "batch_topk", "6", 0)
    assert case_config(undercomplete, PlantedPair(0), tmp_path).crosscoder.n_latents == 64
    words = ["training.n_tokens=512"]
    assert case_config(undercomplete, PlantedPair(0), tmp_path, words).training.n_tokens == 512
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        Case("standart", "batch_topk", "6", 0)
    with pytest.raises(ConfigError, match="did you mean 'batch_topk'"):
        Case("standard", "batchtopk", "6", 0)
    assert regime_named("null_drift").is_null


def test_agreement_over_restarts(tmp_path: Path) -> None:
    """Two dictionaries found {1, 2} and {1, 3}: one of three features by both."""
    cases = plan(["standard"], ["batch_topk"], ["4"], [0], restarts=2)
    results = evaluate(cases, tmp_path)
    assert agreement(results) == {("standard", "batch_topk", "4", 0): {"rule": pytest.approx(1 / 3)}}
    assert agreement(results[:1]) == {}
    assert json.loads((tmp_path / "cases" / cases[1].name / "result.json").read_text()) == results[1]
    assert "| 0.33 |" in (tmp_path / "results.md").read_text()


def test_spread() -> None:
    assert spread([1.0, 2.0, None]) == "1.50 ± 0.71"
    assert spread([1.234]) == "1.23"
    assert spread([None]) == "–"
