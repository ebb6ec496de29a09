"""The analysis of a run on two language models: sources, template tokens, examples and logit tables."""

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.latents.dictionary_view import view_of
from analysis.latents.token_text import display_vocabulary
from analysis.tables.analysis_files import AnalysisResults, load_results
from analysis.tables.columns import EXAMPLES, FEATURES, LOGITS
from crosscoder.activations.shards import ShardReader
from crosscoder.config import RunConfig
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.dictionary.views import View
from crosscoder.language_models.pair import load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents
from tests.analysis.pair_run import N_LATENTS, make_pair_run
from tests.analysis.table_checks import described
from tests.tiny_pairs import save_adapter, save_llama


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder, AnalysisResults]:
    folder = tmp_path_factory.mktemp("pair")
    base = save_llama(folder / "base")
    config, run = make_pair_run(
        folder, "paired", {"adapter": str(save_adapter(base, folder / "adapter"))}, base
    )
    return config, run, load_results(run)


def assert_described(run: RunFolder, by_model: str | None = None) -> None:
    """Check that tables match their documentation; `by_model` is the prefix of the columns that only this view has."""
    found = described(run.features, FEATURES)
    own = {f"{by_model}_{model}" for model in ("reference", "intervened")} if by_model else set()
    assert found & {column.name for column in FEATURES.columns if column.condition} == own
    assert "density/SOURCE" in found
    described(run.examples, EXAMPLES)
    described(run.logits, LOGITS)


def test_tables_are_as_documented(analyzed: tuple[RunConfig, RunFolder, AnalysisResults]) -> None:
    assert_described(analyzed[1])


def test_densities_by_source_and_template_share(
    analyzed: tuple[RunConfig, RunFolder, AnalysisResults],
) -> None:
    """Against a direct count over all held-out tokens."""
    _, run, results = analyzed
    reader = ShardReader(run.activations, "held_out")
    documents = Documents.load(run.activations / "documents.safetensors")
    batch = reader.gather(torch.arange(reader.n_tokens))
    fired = load_crosscoder(run.crosscoder).encode(batch.values) > 0
    source = torch.from_numpy(documents.source)[batch.document]
    template = torch.from_numpy(
        documents.template[documents.offsets[batch.document.numpy()] + batch.position.numpy()]
    )
    assert bool(template.any())
    features: Any = results.features
    for index, name in enumerate(documents.source_names):
        expected = fired[source == index].double().mean(dim=0)
        assert features[f"density/{name}"].tolist() == pytest.approx(expected.tolist())
    share = fired[template].sum(dim=0) / fired.sum(dim=0)
    for latent in range(N_LATENTS):
        if fired[:, latent].any():
            assert features["template_share"][latent] == pytest.approx(float(share[latent]))
    assert results.summary["sources"]["chat"]["documents"] + results.summary["sources"]["prose"][
        "documents"
    ] == int(documents.held_out.sum())


def test_examples_show_the_tokens_of_their_documents(
    analyzed: tuple[RunConfig, RunFolder, AnalysisResults],
) -> None:
    config, run, results = analyzed
    documents = Documents.load(run.activations / "documents.safetensors")
    assert config.pair is not None
    pair = load_pair(config.pair)
    vocabulary = display_vocabulary(pair.tokenizer)
    added = {index for index, token in pair.tokenizer.added_tokens_decoder.items() if token.special}
    special = added | set(pair.tokenizer.all_special_ids)
    rows = results.examples().to_pylist()
    assert rows
    for row in rows:
        ids = documents.tokens_of(row["document"])[row["start"] : row["start"] + len(row["tokens"])]
        assert row["token_ids"] == ids.tolist()
        assert row["tokens"] == [vocabulary[i] for i in ids]
        assert row["special"] == [int(i) in special for i in ids]
        assert documents.held_out[row["document"]]
        assert row["source"] == documents.source_names[documents.source[row["document"]]]
        masked = documents.masked[documents.offsets[row["document"]] + row["start"] :][: len(ids)]
        assert all(value == 0 for value, hidden in zip(row["values"], masked, strict=True) if hidden)
    assert any(True in row["special"] for row in rows)
    assert any(True in row["template"] for row in rows)


def test_logit_tables_are_those_of_the_models(analyzed: tuple[RunConfig, RunFolder, AnalysisResults]) -> None:
    config, run, results = analyzed
    assert config.pair is not None
    pair = load_pair(config.pair)
    crosscoder = load_crosscoder(run.crosscoder)
    raw = view_of(crosscoder, (16, 16), "paired").raw
    table: Any = results.logits().to_pandas()
    directions = {"reference": (raw[0], 0), "intervened": (raw[1], 1), "difference": (raw[1] - raw[0], 1)}
    for model, (rows, index) in directions.items():
        logits = pair.direction_logits(rows, index)
        for latent in table["latent"].unique():
            shown = table[(table["latent"] == latent) & (table["model"] == model) & (table["side"] == "top")]
            if len(shown):
                expected = logits[latent].topk(4)
                assert shown["value"].tolist() == pytest.approx(expected.values.tolist(), abs=1e-4)
    assert set(table["model"]) == {"reference", "intervened", "difference"}
    limit = config.analysis.rule.false_discovery_rate
    assert ((table["q_value"] <= limit) == table["readable"]).all() and (table["p_value"] > 0).all()
    counted = results.summary["logit_lens"]
    assert (
        sum(side["readable"] for sides in counted.values() for side in sides.values()) * 4
        == table["readable"].sum()
    )
    features: Any = results.features
    alive = int((features["n_tokens"] > 0).sum())
    assert len(table[table["model"] == "intervened"]) == alive * 2 * 4


def test_explanations_name_sources_and_tokens(analyzed: tuple[RunConfig, RunFolder, AnalysisResults]) -> None:
    *_, results = analyzed
    features: Any = results.features
    alive = features[features["n_tokens"] > 0]["explanation"]
    assert alive.str.contains("strongest peaks on “").all()
    assert alive.str.contains("through the logit lens").all()
    assert alive.str.contains("chat|prose").all()


def test_models_of_different_width(tmp_path: Path) -> None:
    base, wide = save_llama(tmp_path / "base"), save_llama(tmp_path / "wide", width=24)
    _, run = make_pair_run(tmp_path, "paired", wide, base)
    results = load_results(run)
    features: Any = results.features
    assert set(features["label"]) <= {"undetermined", "dead"}
    assert features["reason"].str.contains("no linear map|held-out").all()
    assert features["decoder_cosine"].isna().all()
    assert features["shift_share"].isna().all()
    assert results.summary["fve"]["difference"] is None
    assert set(results.logits().to_pandas()["model"]) == {"reference", "intervened"}


@pytest.mark.parametrize("reads", ["pooled", "difference"])
def test_other_views(reads: View, tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    _, run = make_pair_run(tmp_path, reads, {"adapter": str(save_adapter(base, tmp_path / "adapter"))}, base)
    results = load_results(run)
    assert_described(run, {"pooled": "density", "difference": "beta"}[reads])
    tables = {"pooled": {"reference", "intervened"}, "difference": {"difference"}}
    assert set(results.logits().to_pandas()["model"]) == tables[reads]
    for row in results.examples().to_pylist():
        assert max(row["values"]) == pytest.approx(row["peak"], rel=1e-5)
        written = [max(pair) for pair in zip(row["reference"], row["intervened"], strict=True)]
        assert max(written) > 0
