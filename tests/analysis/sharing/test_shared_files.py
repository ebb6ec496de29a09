"""Latents for the dashboards of other tools: their schemas, our numbers, and no text of the run unless it is asked for."""

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from analysis.sharing.feature_json import write_feature_json
from analysis.sharing.neuronpedia_folder import write_neuronpedia
from analysis.tables.analysis_files import load_results
from crosscoder.run.folder import RunFolder
from tests.analysis.run_folder import N_LATENTS, make_run_folder


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Example(Strict):
    """circuit-tracer's own class, by its fields."""

    tokens_acts_list: list[float]
    train_token_ind: int
    is_repeated_datapoint: bool
    tokens: list[str]


class Quantile(Strict):
    quantile_name: str
    examples: list[Example]


class Feature(Strict):
    transcoder_id: str
    index: int
    examples_quantiles: list[Quantile]
    top_logits: list[str]
    bottom_logits: list[str]
    act_min: float
    act_max: float
    quantile_values: list[float]
    histogram: list[float]
    activation_frequency: float


class Row(BaseModel):
    """A row of Neuronpedia's database: a column without a default is required, and one that is not there is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Owned(Row):
    creatorId: str
    visibility: Literal["PUBLIC", "UNLISTED", "PRIVATE"] = "PRIVATE"


class SourceRelease(Owned):
    name: str
    description: str
    creatorName: str


class Model(Owned):
    id: str
    layers: int
    neuronsPerLayer: int
    owner: str
    instruct: bool
    displayName: str = ""
    displayNameShort: str = ""


class SourceSet(Owned):
    modelId: str
    name: str
    description: str
    creatorName: str
    releaseName: str | None = None


class Source(Owned):
    id: str
    modelId: str
    setName: str
    num_prompts: int | None = None
    dataset: str | None = None
    notes: str | None = None


class Neuron(Row):
    modelId: str
    layer: str
    index: str
    creatorId: str | None
    sourceSetName: str | None
    hookName: str | None
    maxActApprox: float | None
    frac_nonzero: float
    pos_str: list[str]
    pos_values: list[float]
    neg_str: list[str]
    neg_values: list[float]
    freq_hist_data_bar_values: list[float]
    freq_hist_data_bar_heights: list[float]


class Activation(Row):
    id: str
    modelId: str
    layer: str
    index: str
    creatorId: str
    tokens: list[str]
    values: list[float]
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    dataSource: str | None
    dataIndex: str | None
    qualifyingTokenIndex: int | None


class Explanation(Row):
    """`typeName` and `explanationModelName` refer to rows that a database may not have, so they are left out."""

    id: str
    modelId: str
    layer: str
    index: str
    description: str
    authorId: str


TABLES: dict[str, type[Row]] = {
    "release.jsonl": SourceRelease,
    "model.jsonl": Model,
    "sourceset.jsonl": SourceSet,
    "source.jsonl": Source,
    "features": Neuron,
    "activations": Activation,
    "explanations": Explanation,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run_folder(tmp_path_factory.mktemp("shared") / "run")


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def quoted(run: RunFolder) -> set[str]:
    """Texts of examples long enough to be recognized."""
    examples = load_results(run).examples().to_pylist()
    return {"".join(row["tokens"])[:24] for row in examples if len("".join(row["tokens"])) >= 24}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_examples", [False, True])
def test_circuit_tracer_s_own_class_reads_every_file(
    run: RunFolder, tmp_path: Path, with_examples: bool
) -> None:
    models = pytest.importorskip("circuit_tracer.frontend.feature_models", reason="make peers installs it")
    assert models.Model.model_fields.keys() == Feature.model_fields.keys(), "the class above is its copy"
    write_feature_json(run, tmp_path, with_examples)
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 2 * N_LATENTS
    for path in files:
        record = json.loads(path.read_text())
        read = models.Model.model_validate_json(path.read_text(), strict=True).model_dump()
        assert read == {name: record[name] for name in read}


@pytest.mark.parametrize("with_examples", [False, True])
def test_feature_json_has_the_fields_and_our_numbers(
    run: RunFolder, tmp_path: Path, with_examples: bool
) -> None:
    write_feature_json(run, tmp_path, with_examples)
    results = load_results(run)
    for model in ("reference", "intervened"):
        files = sorted((tmp_path / model).iterdir(), key=lambda path: int(path.stem))
        assert [int(path.stem) for path in files] == list(range(N_LATENTS))
        shown = 0
        for path, (_, row) in zip(files, results.features.iterrows(), strict=True):
            feature = Feature.model_validate(json.loads(path.read_text()))
            assert feature.index == row["latent"]
            assert feature.activation_frequency == pytest.approx(row["density"])
            histogram = results.histograms.of(feature.index)
            counts = sum(histogram.counts.values(), np.zeros(1)) if histogram is not None else np.zeros(0)
            assert feature.histogram == counts.tolist()
            for group in feature.examples_quantiles:
                for example in group.examples:
                    shown += 1
                    assert len(example.tokens) == len(example.tokens_acts_list)
                    assert example.tokens_acts_list[example.train_token_ind] == max(example.tokens_acts_list)
        assert shown == (results.examples().num_rows if with_examples else 0)
    logits = [
        row for row in results.logits([3]).to_pylist() if row["model"] == "reference" and row["side"] == "top"
    ]
    record = json.loads((tmp_path / "reference" / "3.json").read_text())
    assert record["top_logits"] == [row["token"] for row in logits]


def test_a_neuronpedia_folder_has_one_source_per_model(run: RunFolder, tmp_path: Path) -> None:
    write_neuronpedia(run, tmp_path, with_examples=True)
    sources = sorted(path.parent for path in tmp_path.rglob("source.jsonl"))
    assert len(sources) == 2
    results = load_results(run)
    for place in sources:
        (source,) = lines(place / "source.jsonl")
        assert (source["modelId"], source["id"]) == place.relative_to(tmp_path).parts
        assert source["modelId"] == source["modelId"].lower()
        assert place.name.startswith(("0-", "1-", "2-")) or place.name[0].isdigit()
        features = lines(place / "features" / "batch-0.jsonl.gz")
        assert [row["index"] for row in features] == [str(index) for index in range(N_LATENTS)]
        for row in features:
            assert len(row["pos_str"]) == len(row["pos_values"]) <= 20
            assert len(row["freq_hist_data_bar_values"]) == len(row["freq_hist_data_bar_heights"])
            assert (row["modelId"], row["layer"]) == (source["modelId"], source["id"])
        explanations = lines(place / "explanations" / "batch-0.jsonl.gz")
        assert all(0 < len(row["description"]) <= 512 for row in explanations)
        activations = lines(place / "activations" / "batch-0.jsonl.gz")
        assert len(activations) == results.examples().num_rows
        for row in activations:
            assert len(row["tokens"]) == len(row["values"]) <= 1024
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert len({row["id"] for row in activations}) == len(activations)


def test_every_row_of_a_neuronpedia_folder_has_the_columns_of_its_table(
    run: RunFolder, tmp_path: Path
) -> None:
    write_neuronpedia(run, tmp_path, with_examples=True)
    read: set[str] = set()
    ids: list[str] = []
    for path in tmp_path.rglob("*.jsonl*"):
        table = path.name if path.name in TABLES else path.parent.name
        read.add(table)
        rows = [TABLES[table].model_validate(row) for row in lines(path)]
        # The import takes the columns of the first row.
        assert rows and len({frozenset(row.model_fields_set) for row in rows}) == 1
        ids += [row.id for row in rows if isinstance(row, Activation | Explanation)]
    assert read == set(TABLES)
    assert len(set(ids)) == len(ids), "a row whose id is there already is left out without a word"


def test_the_dashboard_classes_of_sae_dashboard_take_the_rows(run: RunFolder, tmp_path: Path) -> None:
    dashboard = pytest.importorskip(
        "sae_dashboard.neuronpedia.neuronpedia_dashboard", reason="make peers installs it"
    )
    write_neuronpedia(run, tmp_path, with_examples=True)
    for source in (path.parent for path in tmp_path.rglob("source.jsonl")):
        examples: dict[str, list[dict[str, Any]]] = {}
        for row in lines(source / "activations" / "batch-0.jsonl.gz"):
            example = {name: row[name] for name in ("tokens", "values")}
            examples.setdefault(row["index"], []).append(example)
        rows = lines(source / "features" / "batch-0.jsonl.gz")
        batch = dashboard.NeuronpediaDashboardBatch(
            model_id=source.parent.name,
            features=[
                {
                    name: value
                    for name, value in row.items()
                    if name in vars(dashboard.NeuronpediaDashboardFeature())
                }
                | {"feature_index": int(row["index"]), "activations": examples.get(row["index"], [])}
                for row in rows
            ],
        )
        for feature, row in zip(batch.to_dict()["features"], rows, strict=True):
            shared = feature.keys() & row.keys()
            assert {"pos_str", "neg_values", "frac_nonzero", "freq_hist_data_bar_heights"} <= shared
            assert {name: feature[name] for name in shared} == {name: row[name] for name in shared}
            read = [{name: one[name] for name in ("tokens", "values")} for one in feature["activations"]]
            assert read == examples.get(row["index"], [])
        assert examples


@pytest.mark.parametrize("write", [write_feature_json, write_neuronpedia])
def test_no_text_of_the_run_is_written_unasked(run: RunFolder, tmp_path: Path, write: Any) -> None:
    texts, explanations = quoted(run), set(load_results(run).features["explanation"])
    assert texts
    for with_examples in (False, True):
        place = tmp_path / str(with_examples)
        write(run, place, with_examples)
        content = ""
        for path in place.rglob("*"):
            if path.is_file():
                raw = path.read_bytes()
                content += (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        found = {text for text in texts if json.dumps(text)[1:-1] in content or text in content}
        said = {one for one in explanations if one and json.dumps(one)[1:40] in content}
        joined = content.replace('", "', "")
        leaked = {text for text in texts if json.dumps(text)[1:-1] in joined}
        assert bool(leaked or found) is with_examples
        assert bool(said) is with_examples
        if not with_examples:
            assert "tokens_acts_list" not in content
            assert not list(place.rglob("activations"))


def test_the_same_run_gives_the_same_bytes(run: RunFolder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_neuronpedia(run, tmp_path / name)
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.gz")}
        for name in ("one", "two")
    )
    assert first == second
    assert first


def test_numbers_that_are_missing_are_zero_and_never_nan(run: RunFolder, tmp_path: Path) -> None:
    write_feature_json(run, tmp_path)
    dead = load_results(run).features.query("n_tokens == 0")["latent"]
    assert len(dead)
    for index in dead:
        record = json.loads((tmp_path / "intervened" / f"{index}.json").read_text())
        assert (record["act_max"], record["histogram"]) == (0.0, [])
        assert np.isfinite(record["activation_frequency"])
