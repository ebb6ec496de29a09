"""A pair of two sizes with two tokenizers: each model reads its own tokens, and the aligned ones are compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from crosscoder.activations.batch import split_models
from crosscoder.activations.shards import SPLITS, ShardReader
from crosscoder.config import PairConfig, RunConfig
from crosscoder.config.load import load_config
from crosscoder.errors import ConfigError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.text_files import read_texts
from crosscoder.text.token_alignment import Aligner, counterpart_positions
from tests.tiny_pairs import run_config, save_llama
from training.doctor import doctor
from training.extraction import check_documents, extract, pack
from training.harvest import harvest
from training.survey import survey

# The word tokenizer maps all unknown openings to one token, so that prefixes repeat; masking them has its own test.
_POLICY = {"mask_repeated": False}


def with_align(config: RunConfig, **pair: Any) -> RunConfig:
    return RunConfig.model_validate(
        config.model_dump(mode="json")
        | {"pair": config.model_dump(mode="json")["pair"] | {"align": "characters", **pair}}
    )


class Sizes:
    """Bytes and one BOS for the small model; words, more layers and a larger width for the large one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.small = save_llama(folder / "small")
        self.large = save_llama(folder / "large", 1, width=24, n_layers=5, words=True)
        self.config = with_align(
            run_config(folder, self.small, self.large, tokens=_POLICY), intervened_hookpoint="model.layers.3"
        )
        assert self.config.pair is not None
        self.pair = load_pair(self.config.pair)
        self.documents = read(self.config, self.pair)


def read(config: RunConfig, pair: ModelPair) -> Documents:
    assert config.text is not None
    return tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed, pair.readers)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    return Sizes(tmp_path_factory.mktemp("sizes"))


def by_document(folder: Path, d_models: tuple[int, ...]) -> dict[int, list[torch.Tensor]]:
    """Each document's activations of both models, in order."""
    found = {}
    for side in SPLITS:
        reader = ShardReader(folder / "activations", side)
        rows = reader.gather(torch.arange(reader.n_tokens))
        for document in rows.document.unique().tolist():
            found[document] = [
                part[rows.document == document] for part in split_models(rows.values, d_models)
            ]
    return found


def test_the_harvest_equals_each_model_run_by_hand_at_the_aligned_tokens(sizes: Sizes) -> None:
    config, documents = sizes.config, sizes.documents
    harvest(RunFolder(sizes.folder / "run"), config, sizes.pair, documents)
    harvested = by_document(sizes.folder / "run", sizes.pair.d_models)
    assert sizes.pair.readers is not None and config.text is not None
    assert len(harvested) == documents.n_documents
    texts = [text for source in config.text.sources for text in read_texts(source)]
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (sizes.small, sizes.large)
    ]
    aligner = Aligner(sizes.pair.readers)
    n_compared = 0
    for document, text in enumerate(texts):
        sides = aligner.read(text)
        places = counterpart_positions(sides[0].ends, sides[1].ends)
        met = np.flatnonzero(places >= 0)
        met = met[(met > 0) & (places[met] > 0) & (met < 60) & (places[met] < 60)]
        for model, layer, own in ((0, 2, met), (1, 4, places[met])):
            ids = torch.from_numpy(sides[model].token_ids.astype(np.int64))[None]
            with torch.no_grad():
                states = models[model](ids, output_hidden_states=True).hidden_states[layer][0]
            torch.testing.assert_close(harvested[document][model], states[own], rtol=1e-4, atol=1e-4)
        n_compared += len(met)
    manifest = json.loads((sizes.folder / "run" / "manifest.json").read_text())
    assert manifest["data"]["alignment"]["places"] >= n_compared == int(documents.unmasked.sum())
    assert manifest["pair"]["tokenizer"] != manifest["pair"]["intervened_tokenizer"]


def test_swapping_the_models_swaps_everything(sizes: Sizes, tmp_path: Path) -> None:
    config = with_align(
        run_config(sizes.folder, sizes.large, sizes.small, tokens=_POLICY),
        hookpoint="model.layers.3",
        intervened_hookpoint="model.layers.1",
    )
    assert config.pair is not None
    pair = load_pair(config.pair)
    documents = read(config, pair)
    for name, one, other, text in (
        ("one", sizes.config, sizes.pair, sizes.documents),
        ("other", config, pair, documents),
    ):
        harvest(RunFolder(tmp_path / name), one, other, text)
    before, after = (
        by_document(tmp_path / "one", sizes.pair.d_models),
        by_document(tmp_path / "other", pair.d_models),
    )
    assert before.keys() == after.keys()
    for document, parts in before.items():
        for part, swapped in zip(parts, reversed(after[document]), strict=True):
            torch.testing.assert_close(part, swapped, rtol=1e-5, atol=1e-5)


def test_batched_equals_single_documents(sizes: Sizes) -> None:
    documents = sizes.documents
    chosen = documents.split(held_out=False)
    (whole,) = pack(chosen, documents.read_lengths, 100_000)
    together = extract(sizes.pair, documents, whole)
    alone = [extract(sizes.pair, documents, np.array([document])) for document in whole]
    torch.testing.assert_close(
        together.values, torch.cat([one.values for one in alone]), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(together.document, torch.cat([one.document for one in alone]))
    assert torch.equal(together.position, torch.cat([one.position for one in alone]))


def test_the_survey_compares_layers_and_reports_no_divergence(sizes: Sizes) -> None:
    found = survey(sizes.pair, sizes.documents, 8)
    assert found["predictions"] is None
    assert [row["change"] for row in found["layers"]] == [None] * 4, "widths differ"
    assert all(row["cka"] is not None for row in found["layers"])
    assert [row["intervened"] for row in found["layers"]] == [0, 2, 4, 5], (
        "equal relative depth, but for the hookpoints"
    )


def test_doctor_describes_the_alignment(sizes: Sizes) -> None:
    text = doctor(sizes.config)
    assert "aligned by characters" in text
    assert "widths      differ, so there is no difference to explain" in text
    assert "of the intervened model's; the other tokens are read, but not compared" in " ".join(text.split())
    assert "each model reads them in its own template" in text
    assert "hook        intervened: equals the output of layer 3" in text


def test_documents_too_long_for_either_model_are_refused(
    sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = sizes.documents.lengths, sizes.documents.read_lengths
    assert lengths[0].max() == lengths[1].max() > sizes.documents.alignment.lengths.max()  # pyright: ignore[reportOptionalMemberAccess]
    longest = int(lengths[1].max())
    monkeypatch.setattr(ModelPair, "max_positions", longest - 1)
    with pytest.raises(ConfigError, match=rf"a document has {longest} tokens"):
        check_documents(sizes.documents, sizes.pair)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_the_setting_two_tokenizers_are_refused(sizes: Sizes) -> None:
    assert sizes.config.pair is not None
    with pytest.raises(PairError, match=r"differ in .*, or set pair\.align to characters$"):
        load_pair(sizes.config.pair.model_copy(update={"align": "none"}))


def test_with_one_tokenizer_the_setting_changes_nothing(tmp_path: Path) -> None:
    plain = run_config(tmp_path, save_llama(tmp_path / "a"), save_llama(tmp_path / "b", 1, width=12))
    runs = []
    for name, config in (("plain", plain), ("aligned", with_align(plain))):
        assert config.pair is not None
        pair = load_pair(config.pair)
        assert pair.readers is None
        harvest(RunFolder(tmp_path / name), config, pair, read(config, pair))
        folder = tmp_path / name / "activations"
        runs.append(
            {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intervened": {"context": "Answer in rhyme."}},
            "a model with a context has the reference's tokenizer",
        ),
        ({"intervened": {"adapter": "somewhere"}}, "a model with an adapter has the reference's tokenizer"),
        ({"snapshots": [{"model": "somewhere"}]}, "there are 1 snapshots between them; remove snapshots"),
    ],
)
def test_settings_that_cannot_be_aligned_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = {
        "output": "run",
        "pair": {
            "reference": {"model": "a"},
            "intervened": {"model": "b"},
            "hookpoint": "h",
            "align": "characters",
        },
        "text": {"sources": [{"path": "a.jsonl", "name": "a"}]},
    }
    settings["pair"] |= changes
    (tmp_path / "pair.yaml").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "pair.yaml")


def test_a_snapshot_with_another_tokenizer_is_refused(sizes: Sizes) -> None:
    config = PairConfig.model_validate(
        {
            "reference": {"model": str(sizes.small), "dtype": "float32"},
            "intervened": {"model": str(sizes.small), "dtype": "float32", "revision": "main"},
            "snapshots": [{"model": str(sizes.large), "dtype": "float32"}],
            "hookpoint": "model.layers.1",
            "device": "cpu",
        }
    )
    with pytest.raises(PairError, match=r"differ in .*; give two models with one tokenizer$"):
        load_pair(config)
