import json
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscoder.activations.batch import split_models
from crosscoder.activations.shards import SPLITS, Manifest, ShardReader
from crosscoder.config import AdapterSource, RunConfig
from crosscoder.errors import ConfigError, DataError, FormatError, ResourceError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents, tokenize
from tests.tiny_pairs import run_config, save_adapter, save_gpt2, save_llama
from training import extraction
from training import harvest as harvest_module
from training.extraction import group_batches, pack, pad, plan_batches
from training.harvest import harvest


class Setting:
    """A pair, its texts, and the bytes of an uninterrupted harvest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = run_config(
            folder, save_llama(folder / "reference"), save_llama(folder / "intervened", 1, width=12)
        )
        assert self.config.pair is not None
        self.pair = load_pair(self.config.pair)
        self.documents = read(self.config, self.pair)
        harvest(RunFolder(folder / "whole"), self.config, self.pair, self.documents)
        self.whole = contents(folder / "whole")


def read(config: RunConfig, pair: ModelPair) -> Documents:
    assert config.text is not None
    return tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed)


def contents(run: Path) -> dict[str, bytes]:
    folder = run / "activations"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("harvest"))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, n_batches: int, error: BaseException) -> list[int]:
    """Allow `n_batches` forward passes of the harvest, then raise; the list holds the number of passes."""
    done: list[int] = []

    def extract(*arguments: Any) -> Any:
        if len(done) == n_batches:
            raise error
        done.append(1)
        return extraction.extract(*arguments)

    monkeypatch.setattr(harvest_module, "extract", extract)
    return done


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [16, 96, 10_000])
def test_a_plan_contains_every_document_of_its_side_once(setting: Setting, batch_tokens: int) -> None:
    for held_out in (False, True):
        plans = [plan_batches(setting.documents, held_out, batch_tokens, 0, number) for number in (0, 0, 1)]
        for plan in plans:
            assert sorted(np.concatenate(plan).tolist()) == setting.documents.split(held_out).tolist()
            for batch in plan:
                area = len(batch) * int(setting.documents.lengths[batch].max())
                assert area <= batch_tokens or len(batch) == 1
        as_lists = [[batch.tolist() for batch in plan] for plan in plans]
        assert as_lists[0] == as_lists[1]
        # A single batch of all documents is sorted the same way in every pass.
        assert as_lists[0] != as_lists[2] or len(plans[0]) == 1


def test_packing_wastes_little(setting: Setting) -> None:
    """Documents sorted by length need less padding than in their original order."""
    lengths = np.random.default_rng(0).integers(1, 200, 1000)
    batches = pack(np.arange(1000), lengths, 2048)
    area = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert area < 1.15 * lengths.sum()
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))


def alike_and_not(n_alike: int, opening: int) -> Documents:
    """Documents with the same `opening` tokens, and equally many that begin with distinct tokens."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(100, 250, 20 + index % 9).astype(np.int32) for index in range(2 * n_alike)]
    for index, row in enumerate(rows):
        row[:opening] = np.arange(opening) + 3 if index % 2 else [index, *row[1:opening]]
    total = sum(map(len, rows))
    return Documents(
        token_ids=np.concatenate(rows),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        source=np.zeros(len(rows), dtype=np.int16),
        held_out=np.arange(len(rows)) % 5 == 0,
        template=np.zeros(total, dtype=bool),
        masked=np.zeros(total, dtype=bool),
        source_names=("planted",),
    )


def test_documents_with_a_common_opening_are_packed_together(setting: Setting) -> None:
    documents = alike_and_not(20, opening=10)
    for batch in plan_batches(documents, False, 200, 0):
        assert len(set((batch % 2).tolist())) == 1


def test_running_a_common_prefix_once_changes_no_more_than_rounding(setting: Setting) -> None:
    documents, runs = alike_and_not(20, opening=10), []
    # The first use tests whether the models support it.
    setting.pair.activations(*pad(documents, np.array([1, 3])), 10)
    handle = (
        setting.pair.models[0]
        .get_submodule("model.layers.0")
        .register_forward_hook(lambda _, inputs, __: runs.append(inputs[0].shape[:2].numel()))
    )
    spared = 0
    for batch in plan_batches(documents, False, 200, 0):
        runs.clear()
        rows = extraction.extract(setting.pair, documents, batch)
        area = len(batch) * int(documents.lengths[batch].max())
        shared = 10 * (len(batch) - 1) if batch[0] % 2 else 0
        assert sum(runs) <= area - shared
        spared += shared
        for part, whole in zip(
            split_models(rows.values, setting.pair.d_models),
            setting.pair.activations(*pad(documents, batch)),
            strict=True,
        ):
            expected = torch.cat([row[: documents.lengths[i]] for row, i in zip(whole, batch, strict=True)])
            torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)
    handle.remove()
    assert spared > 100


def test_groups_keep_order_and_size(setting: Setting) -> None:
    plan = plan_batches(setting.documents, False, 64, 0)
    groups = group_batches(plan, setting.documents, 100)
    assert [batch.tolist() for group in groups for batch in group] == [batch.tolist() for batch in plan]
    sizes = [[int(setting.documents.unmasked[batch].sum()) for batch in group] for group in groups]
    assert all(sum(group) <= 100 or len(group) == 1 for group in sizes)
    assert all(sum(one) + two[0] > 100 for one, two in zip(sizes, sizes[1:], strict=False))


def test_padding_ends_at_the_models_last_position(setting: Setting) -> None:
    batch = np.array([int(setting.documents.lengths.argmax())])
    longest = int(setting.documents.lengths.max())
    for limit, expected in (
        (None, -(-longest // 16) * 16),
        (longest + 1, longest + 1),
        (1000, -(-longest // 16) * 16),
    ):
        token_ids, mask = pad(setting.documents, batch, limit)
        assert token_ids.shape == mask.shape == (1, expected)
        assert mask.sum() == longest


# --- what is on disk --------------------------------------------------------------------------------------------------


def test_rows_are_the_models_activations_at_unmasked_tokens(setting: Setting) -> None:
    for side in SPLITS:
        reader = ShardReader(setting.folder / "whole/activations", side)
        batch = reader.gather(torch.arange(reader.n_tokens))
        expected = setting.documents.split(side == "held_out")
        assert sorted(set(batch.document.tolist())) == expected.tolist()
        assert int((batch.document.diff() != 0).sum()) == len(expected) - 1
        for document in expected.tolist():
            ids = torch.from_numpy(setting.documents.tokens_of(document)).long()[None]
            own = setting.pair.activations(ids, torch.ones_like(ids, dtype=torch.bool))
            start, end = setting.documents.offsets[document : document + 2]
            kept = torch.from_numpy(~setting.documents.masked[start:end])
            rows = batch.document == document
            assert batch.position[rows].tolist() == kept.nonzero()[:, 0].tolist()
            for part, output in zip(split_models(batch.values[rows], reader.d_models), own, strict=True):
                torch.testing.assert_close(part, output[0][kept], rtol=1e-4, atol=1e-4)


def test_held_out_documents_are_never_in_training_shards(setting: Setting) -> None:
    documents = {}
    for side in SPLITS:
        reader = ShardReader(setting.folder / "whole/activations", side)
        documents[side] = set(reader.gather(torch.arange(reader.n_tokens)).document.tolist())
    assert documents["train"]
    assert documents["held_out"]
    assert not documents["train"] & documents["held_out"]


def test_the_manifest_of_the_run_describes_the_texts(setting: Setting) -> None:
    manifest = json.loads((setting.folder / "whole/manifest.json").read_text())
    assert manifest["pair"] == setting.pair.identity()
    assert manifest["data"]["fingerprint"] == setting.documents.digest()
    tokens = manifest["stages"]["harvest"]["tokens"]
    assert sum(tokens.values()) == setting.documents.unmasked.sum()
    assert manifest["stages"]["harvest"]["finished"]


def test_outliers_are_dropped_and_counted(setting: Setting, tmp_path: Path) -> None:
    policy = setting.config.tokens.model_copy(update={"outlier_multiple": 1.3})
    config = setting.config.model_copy(update={"tokens": policy})
    harvest(RunFolder(tmp_path), config, setting.pair, setting.documents)
    manifest = Manifest.load(tmp_path / "activations")
    for side in SPLITS:
        everything = ShardReader(setting.folder / "whole/activations", side)
        rows = everything.gather(torch.arange(everything.n_tokens))
        norms = [part.norm(dim=1) for part in split_models(rows.values, everything.d_models)]
        kept = (norms[0] <= manifest.max_norms[0]) & (norms[1] <= manifest.max_norms[1])
        left = ShardReader(tmp_path / "activations", side)
        assert torch.equal(left.gather(torch.arange(left.n_tokens)).values, rows.values[kept])
        assert manifest.sides[side].n_outliers == int((~kept).sum()) > 0


def test_the_median_is_that_of_unmasked_tokens(setting: Setting) -> None:
    """With fewer than 64 training documents, the median is over all training tokens."""
    reader = ShardReader(setting.folder / "whole/activations", "train")
    values = reader.gather(torch.arange(reader.n_tokens)).values
    medians = [float(part.norm(dim=1).median()) for part in split_models(values, reader.d_models)]
    assert Manifest.load(setting.folder / "whole/activations").median_norms == pytest.approx(
        medians, rel=1e-5
    )


# --- resuming -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_batches", [0, 1, 2, 5, 7])
def test_an_interrupted_harvest_ends_in_the_same_bytes(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_batches: int
) -> None:
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        done = interrupt_after(patch, n_batches, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            harvest(folder, setting.config, setting.pair, setting.documents)
        assert len(done) == n_batches
    with pytest.raises(FormatError, match="not finished"):
        ShardReader(folder.activations, "train")
    with monkeypatch.context() as patch:
        # A second interruption, after the resume.
        interrupt_after(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            harvest(folder, setting.config, setting.pair, setting.documents)
    harvest(folder, setting.config, setting.pair, setting.documents)
    assert contents(tmp_path) == setting.whole


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["cache", "stream"])
def test_a_harvest_of_snapshots_resumes_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its reference and intervened model equal those of the pair without snapshots, row by row."""
    base = save_llama(tmp_path / "base")
    adapters = [save_adapter(base, tmp_path / f"adapter{seed}", seed) for seed in (1, 2)]
    activations = {"kind": kind, "dtype": "float32", "shard_tokens": 60, "batch_tokens": 96}
    config = run_config(tmp_path, base, {"adapter": str(adapters[1])}, activations=activations)
    assert config.pair is not None
    chained = config.pair.model_copy(update={"snapshots": (AdapterSource(adapter=str(adapters[0])),)})
    chain = config.model_copy(update={"pair": chained})
    alone, pair = load_pair(config.pair), load_pair(chained)
    documents = read(config, pair)
    harvest(RunFolder(tmp_path / "ends"), config, alone, documents)
    harvest(RunFolder(tmp_path / "whole"), chain, pair, documents)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            harvest(RunFolder(tmp_path / "broken"), chain, pair, documents)
    harvest(RunFolder(tmp_path / "broken"), chain, pair, documents)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    manifest = Manifest.load(tmp_path / "whole" / "activations")
    assert manifest.d_models == (16, 16, 16)
    assert manifest.identity["pair"]["snapshot_1"]["adapter_weights"]
    assert RunFolder(tmp_path / "whole").read_manifest()["pair"]["snapshot_1"]["adapter"] == str(adapters[0])
    ends, whole = (ShardReader(tmp_path / run / "activations", "held_out") for run in ("ends", "whole"))
    rows = torch.arange(ends.n_tokens)
    assert torch.equal(whole.gather(rows).values[:, :32], ends.gather(rows).values)
    assert not torch.equal(whole.gather(rows).values[:, 32:], ends.gather(rows).values[:, 16:])
    with pytest.raises(FormatError, match=r"pair\.snapshot_1\..* was None"):
        harvest(RunFolder(tmp_path / "ends"), chain, pair, documents)


KILLED = """
import sys, time
from pathlib import Path
from crosscoder.run.folder import RunFolder
from crosscoder.language_models.pair import load_pair
from crosscoder.config import RunConfig
from crosscoder.text.documents import tokenize
from training import extraction, harvest

def slowly(*arguments):
    print("batch", flush=True)
    time.sleep(0.05)
    return extraction.extract(*arguments)

harvest.extract = slowly
config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
pair = load_pair(config.pair)
documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed)
harvest.harvest(RunFolder(Path(sys.argv[2])), config, pair, documents)
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_batches", [3, 6])
def test_a_killed_harvest_ends_in_the_same_bytes(setting: Setting, tmp_path: Path, n_batches: int) -> None:
    """kill -9 of a real process during the harvest."""
    (tmp_path / "config.json").write_text(setting.config.model_dump_json())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "config.json"), str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        for _ in range(n_batches):
            assert process.stdout.readline() == "batch\n"
        time.sleep(0.03)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = contents(tmp_path / "run")
    assert set(before) - set(setting.whole) <= {name for name in before if name.endswith(".partial")}
    assert before != setting.whole
    harvest(RunFolder(tmp_path / "run"), setting.config, setting.pair, setting.documents)
    assert contents(tmp_path / "run") == setting.whole


def test_a_finished_harvest_is_reused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    done = interrupt_after(monkeypatch, 0, AssertionError("ran the models again"))
    harvest(RunFolder(setting.folder / "whole"), setting.config, setting.pair, setting.documents)
    assert not done
    assert contents(setting.folder / "whole") == setting.whole


def test_a_model_that_moved_is_the_same_model(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    moved = shutil.copytree(setting.folder / "reference", tmp_path / "moved")
    assert setting.config.pair is not None
    source = setting.config.pair.reference.model_copy(update={"model": str(moved)})
    pair = load_pair(setting.config.pair.model_copy(update={"reference": source}))
    interrupt_after(monkeypatch, 0, AssertionError("ran the models again"))
    harvest(RunFolder(setting.folder / "whole"), setting.config, pair, setting.documents)


def other_seed(setting: Setting) -> tuple[RunConfig, ModelPair]:
    return setting.config.model_copy(update={"seed": 5}), setting.pair


def other_dtype(setting: Setting) -> tuple[RunConfig, ModelPair]:
    activations = setting.config.activations.model_copy(update={"dtype": "float16"})
    return setting.config.model_copy(update={"activations": activations}), setting.pair


def other_hookpoint(setting: Setting) -> tuple[RunConfig, ModelPair]:
    assert setting.config.pair is not None
    pair = setting.config.pair.model_copy(update={"hookpoint": "model.layers.0"})
    return setting.config.model_copy(update={"pair": pair}), load_pair(pair)


def other_settings(setting: Setting) -> tuple[RunConfig, ModelPair]:
    """The same weights, in a model that scales differently: its folder was written over."""
    assert setting.config.pair is not None
    pair = load_pair(setting.config.pair)
    model: Any = pair.models[1]
    model.config.rms_norm_eps = 0.5
    return setting.config, pair


def other_text(setting: Setting) -> tuple[RunConfig, ModelPair]:
    assert setting.config.text is not None
    text = setting.config.text.model_copy(update={"max_length": 10})
    return setting.config.model_copy(update={"text": text}), setting.pair


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (other_seed, "settings.seed was 0, now it is 5"),
        (other_dtype, "settings.activations.dtype was 'float32', now it is 'float16'"),
        (other_hookpoint, "hookpoint was 'model.layers.1', now it is 'model.layers.0'"),
        (other_settings, "pair.intervened.settings was"),
        (other_text, "text.digest was"),
    ],
)
def test_a_harvest_with_another_identity_is_refused(
    setting: Setting, change: Callable[[Setting], tuple[RunConfig, ModelPair]], complaint: str
) -> None:
    config, pair = change(setting)
    documents = read(config, pair) if change is other_text else setting.documents
    with pytest.raises(FormatError, match="holds the activations of another run") as caught:
        harvest(RunFolder(setting.folder / "whole"), config, pair, documents)
    assert complaint in str(caught.value)
    assert contents(setting.folder / "whole") == setting.whole


def test_a_stream_stores_only_held_out_tokens(setting: Setting, tmp_path: Path) -> None:
    activations = {
        "kind": "stream",
        "dtype": "float32",
        "shard_tokens": 120,
        "batch_tokens": 96,
        "buffer_tokens": 200,
    }
    config = RunConfig.model_validate(setting.config.model_dump() | {"activations": activations})
    harvest(RunFolder(tmp_path), config, setting.pair, setting.documents)
    assert set(Manifest.load(tmp_path / "activations").sides) == {"held_out"}
    written = contents(tmp_path)
    assert written["held_out/00000.safetensors"] == setting.whole["held_out/00000.safetensors"]
    with pytest.raises(FormatError, match="harvest of train is not finished"):
        ShardReader(tmp_path / "activations", "train")


# --- what cannot be harvested -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_model_and_document(
    setting: Setting, tmp_path: Path, value: float
) -> None:
    assert setting.config.pair is not None
    pair = load_pair(setting.config.pair)
    document = int(setting.documents.split(False)[3])
    first = setting.documents.tokens_of(document)[1]
    with torch.no_grad():
        pair.models[1].get_submodule("model.embed_tokens").weight[int(first)] = value  # pyright: ignore[reportIndexIssue]
    with pytest.raises(
        DataError, match=r"activations of the intervened model at model\.layers\.1 are NaN or infinite"
    ) as caught:
        harvest(RunFolder(tmp_path), setting.config, pair, setting.documents)
    assert "positions of document" in str(caught.value)


def test_overflow_of_the_stored_precision_is_refused(setting: Setting, tmp_path: Path) -> None:
    assert setting.config.pair is not None
    pair = load_pair(setting.config.pair)
    config, _ = other_dtype(setting)
    with torch.no_grad():
        pair.models[0].get_submodule("model.embed_tokens").weight.mul_(1e6)  # pyright: ignore[reportCallIssue]
    with pytest.raises(DataError, match=r"reference model .* \(float16\)"):
        harvest(RunFolder(tmp_path), config, pair, setting.documents)


def test_a_disk_that_is_too_small_is_refused_in_advance(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = int(setting.documents.unmasked.sum()) * (sum(setting.pair.d_models) * 4 + 8)
    usage = namedtuple("usage", "total used free")
    done = interrupt_after(monkeypatch, 0, AssertionError("started"))
    monkeypatch.setattr(harvest_module.shutil, "disk_usage", lambda _: usage(0, 0, int(needed * 1.05)))
    with pytest.raises(ResourceError, match="output: the activations need"):
        harvest(RunFolder(tmp_path), setting.config, setting.pair, setting.documents)
    assert not done
    assert not contents(tmp_path)


def test_documents_longer_than_the_model_are_refused(tmp_path: Path) -> None:
    model = save_gpt2(tmp_path / "gpt2")
    config = run_config(tmp_path, model, model)
    assert config.pair is not None
    assert config.text is not None
    pair = load_pair(config.pair.model_copy(update={"hookpoint": "transformer.h.1"}))
    assert pair.max_positions == 70
    (tmp_path / "long.jsonl").write_text('{"text": "' + "oak " * 90 + '"}\n{"text": "pine"}\n')
    text: dict[str, Any] = {
        "sources": [{"path": str(tmp_path / "long.jsonl"), "name": "long"}],
        "max_length": 80,
    }
    documents = read(RunConfig.model_validate(config.model_dump() | {"text": text}), pair)
    with pytest.raises(
        ConfigError, match=r"text\.max_length: a document has 80 tokens, but the models read at most 70"
    ):
        harvest(RunFolder(tmp_path / "run"), config, pair, documents)


def test_texts_without_unmasked_tokens_are_refused(setting: Setting, tmp_path: Path) -> None:
    policy = setting.config.tokens.model_copy(update={"mask_first": 60})
    config = setting.config.model_copy(update={"tokens": policy})
    with pytest.raises(DataError, match="every token to train on is masked"):
        harvest(RunFolder(tmp_path), config, setting.pair, read(config, setting.pair))


def test_files_need_no_harvest(setting: Setting, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "output": str(tmp_path),
            "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"},
        }
    )
    with pytest.raises(ConfigError, match="nothing to harvest"):
        harvest(RunFolder(tmp_path), config, setting.pair, setting.documents)
