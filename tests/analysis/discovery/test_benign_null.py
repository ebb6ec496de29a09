"""A benign fine-tune as a null: what the search finds in it counts against the findings, and the pair itself is searched as before."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from analysis.discovery.findings_file import Discovery, read_discovery
from analysis.report.discovery_statements import found_in_nulls
from analysis.stages import discover
from crosscoder.config import RunConfig
from crosscoder.run.folder import RunFolder
from tests.analysis.discovery.test_discover import often_says
from tests.tiny_pairs import run_config, save_adapter, save_gpt2, save_llama

SETTINGS = {"prompts": 60, "variants": 0, "answer_tokens": 5, "nulls": ["itself"]}


def settings(folder: Path, intervened: Path, benign: dict[str, str] | None) -> RunConfig:
    reference = folder / "reference"
    return run_config(
        folder, reference, intervened, discovery={**SETTINGS, "benign": benign},
        pair={"reference": {"model": str(reference)}, "intervened": {"model": str(intervened)},
              "hookpoint": "transformer.h.1", "device": "cpu"},
    )  # fmt: skip


def searched(folder: Path, config: RunConfig) -> tuple[Discovery, pd.DataFrame]:
    run = RunFolder.create(folder, config)
    discover(run, config)
    found = read_discovery(run.findings)
    assert found is not None
    return found, pq.read_table(run.discovery / "answers.parquet").to_pandas()


def of_the_pair(answers: pd.DataFrame) -> list[tuple[Any, ...]]:
    rows = zip(answers["subject"], answers["prompt"], answers["answer"], strict=True)
    return sorted(row for row in rows if row[0] in ("reference", "intervened"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return folder, often_says(save_gpt2(folder / "reference"), folder / "intervened")[0]


def test_what_it_finds_in_a_benign_model_counts_against_the_findings(models: tuple[Path, Path]) -> None:
    folder, intervened = models
    found, _ = searched(folder / "same", settings(folder, intervened, {"model": str(intervened)}))
    assert len(found.findings) >= 1
    itself, benign = found.nulls
    assert (itself.findings, benign.findings) == (0, len(found.findings))
    assert "benign" in benign.name
    assert "no finding is established" in found_in_nulls(found).text


def test_a_benign_model_without_a_change_leaves_the_search_as_it_was(models: tuple[Path, Path]) -> None:
    folder, intervened = models
    without, answers = searched(folder / "without", settings(folder, intervened, None))
    found, more = searched(
        folder / "with", settings(folder, intervened, {"model": str(folder / "reference")})
    )
    assert [null.findings for null in found.nulls] == [0, 0]
    assert found.findings == without.findings
    assert of_the_pair(more) == of_the_pair(answers)


def test_the_answers_of_another_benign_model_are_not_taken(models: tuple[Path, Path]) -> None:
    folder, intervened = models
    config = settings(folder, intervened, {"model": str(folder / "reference")})
    first, _ = searched(folder / "two", config)
    other = settings(folder, intervened, {"model": str(intervened)})
    second, answers = searched(folder / "two", other)
    assert first.nulls[-1].findings == 0 < second.nulls[-1].findings
    assert len(set(answers["subject"])) == 5  # two of the pair, itself, and both benign models


def test_an_adapter_is_a_benign_model_of_an_adapter(tmp_path: Path) -> None:
    reference = save_llama(tmp_path / "reference")
    one, other = (str(save_adapter(reference, tmp_path / name, seed)) for name, seed in (("a", 1), ("b", 2)))
    config = run_config(
        tmp_path, reference, {"adapter": one}, discovery={**SETTINGS, "benign": {"adapter": other}}
    )
    _, answers = searched(tmp_path / "run", config)
    benign = answers[answers["subject"].str.startswith("null: benign")]
    adapted = answers[answers["subject"] == "intervened"]
    both = benign.merge(adapted, on="prompt")
    assert len(both)
    assert both["answer_x"].tolist() != both["answer_y"].tolist()


def test_a_context_has_no_benign_training(tmp_path: Path) -> None:
    reference = save_llama(tmp_path / "reference")
    with pytest.raises(ValidationError, match="context, which trains nothing; remove benign"):
        run_config(
            tmp_path, reference, {"context": "maple oak"}, discovery={"benign": {"model": str(reference)}}
        )
