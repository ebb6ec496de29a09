"""A harvest from the files of another program has the bytes of the models' own, and nothing else passes for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder.activations.document_files import DocumentFiles
from crosscoder.activations.shards import Manifest
from crosscoder.config import AdapterSource, RunConfig
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.parts import Part
from crosscoder.text.documents import Documents
from tests.processes import run_python
from tests.small_runs import Said, crosscoder
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training import extraction, outside_activations
from training import harvest as harvest_module
from training.fidelity import check_fidelity
from training.harvest import harvest
from training.harvest_parts import folder_of_part, harvest_part, join_parts
from training.outside_activations import FilesRequest, OutsideActivations, open_outside, read_texts

from .outside_files import Change, Recorded, recorded, write_files

pytestmark = pytest.mark.usefixtures("no_flush")

Changes = dict[str, Change]


class Setting:
    """A pair, what it computes for each document, and its own harvest."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        assert config.pair is not None
        self.folder, self.config = folder, config
        self.pair: ModelPair = load_pair(config.pair)
        self.documents: Documents = read_texts(RunFolder(folder / "whole"), config)[0]
        self.found: Recorded
        with recorded(self.pair) as self.found:
            harvest(RunFolder(folder / "whole"), config, self.pair, self.documents)
        self.whole = shards(folder / "whole")
        context = self.pair.context
        self.before = () if context is None else tuple(context.token_ids.tolist())

    def files(self, folder: Path, changes: Changes | None = None) -> Path:
        return write_files(folder, self.found, self.before, changes)

    def open(self, folder: Path, layer: int | None = None) -> OutsideActivations:
        request = FilesRequest(folder, layer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outside_activations, "load_pair", lambda *_, **__: self.pair)
            _, documents, outside = open_outside(RunFolder(self.folder / "texts"), self.config, request)
        assert documents.digest() == self.documents.digest()
        return outside

    def harvest(self, run: Path, outside: OutsideActivations | None) -> None:
        harvest(RunFolder(run), self.config, self.pair, self.documents, outside)

    def check(self, folder: Path, changes: Changes) -> dict[str, dict[str, float]]:
        return check_fidelity(self.pair, self.documents, self.open(self.files(folder, changes)), 96)["models"]


def shards(run: Path) -> dict[str, bytes]:
    folder = run / "activations"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def contents(run: Path) -> dict[str, bytes]:
    return shards(run) | {"manifest": (run / "activations/manifest.json").read_bytes()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "a")
    save_llama(folder / "b", 1)
    save_llama(folder / "narrow", 1, width=12)
    save_llama(folder / "large", 1, width=24, n_layers=5, words=True)
    for seed in (1, 2):
        save_adapter(folder / "a", folder / f"adapter{seed}", seed)
    return folder


@pytest.fixture(scope="module")
def setting(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("setting")
    return Setting(folder, run_config(folder, models / "a", models / "b"))


def with_pair(config: RunConfig, **changes: Any) -> RunConfig:
    assert config.pair is not None
    return config.model_copy(update={"pair": config.pair.model_copy(update=changes)})


def two_widths(folder: Path, models: Path) -> RunConfig:
    return run_config(folder, models / "a", models / "narrow")


def in_context(folder: Path, models: Path) -> RunConfig:
    return run_config(folder, models / "a", {"context": "pine rose oak"})


def two_tokenizers(folder: Path, models: Path) -> RunConfig:
    config = run_config(folder, models / "a", models / "large", tokens={"mask_repeated": False})
    return with_pair(config, align="characters", intervened_hookpoint="model.layers.3")


def adapter_and_snapshot(folder: Path, models: Path) -> RunConfig:
    config = run_config(folder, models / "a", {"adapter": str(models / "adapter2")})
    return with_pair(config, snapshots=(AdapterSource(adapter=str(models / "adapter1")),))


def bfloat16(folder: Path, models: Path) -> RunConfig:
    activations = {"kind": "cache", "dtype": "bfloat16", "shard_tokens": 120, "batch_tokens": 96}
    return run_config(folder, models / "a", models / "b", activations=activations)


# --- the same bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [two_widths, in_context, two_tokenizers, adapter_and_snapshot, bfloat16],
    ids=lambda make: make.__name__,
)
def test_files_of_what_the_models_compute_give_their_bytes(
    tmp_path: Path, models: Path, make: Callable[[Path, Path], RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path, make(tmp_path, models))
    outside = setting.open(setting.files(tmp_path / "files"))
    setting.harvest(tmp_path / "run", outside)
    assert shards(tmp_path / "run") == setting.whole
    found, own = (Manifest.load(tmp_path / run / "activations") for run in ("run", "whole"))
    assert (found.sides, found.d_models) == (own.sides, own.d_models)
    assert found.median_norms == pytest.approx(own.median_norms, rel=1e-5)
    assert found.identity.keys() - own.identity.keys() == {"outside"}
    figures = RunFolder(tmp_path / "run").read_manifest()["stages"]["harvest"]["outside"]["fidelity"][
        "models"
    ]
    assert list(figures) == list(setting.pair.model_names)
    for one in figures.values():
        assert max(one["relative_error"], one["first_position"], one["last_position"]) < 1e-5
        assert one["norm_ratio"] == pytest.approx(1, abs=1e-5)
    # What comes after reads it like any other, without the files.
    monkeypatch.setattr(harvest_module, "extract", AssertionError("harvested again"))
    setting.harvest(tmp_path / "run", None)


def stacked(values: Tensor) -> Tensor:
    return torch.stack([values + 3, values, values.flip(0)], dim=1)


def test_one_layer_of_several(setting: Setting, tmp_path: Path) -> None:
    files = setting.files(tmp_path / "files", {"reference": stacked, "intervened": stacked})
    setting.harvest(tmp_path / "run", setting.open(files, 1))
    assert shards(tmp_path / "run") == setting.whole
    with pytest.raises(ConfigError, match=r"--file-layer: .* holds 3 layers; say which .* from 0 to 2"):
        setting.open(files)
    with pytest.raises(ConfigError, match=r"--file-layer: 3 was asked for, but .* holds 3 layers"):
        setting.open(files, 3)
    with pytest.raises(DataError, match="not the activations of the reference model"):
        setting.harvest(tmp_path / "other", setting.open(files, 0))
    assert not list((tmp_path / "other").rglob("*.json"))


@pytest.mark.parametrize("n_batches", [0, 1, 4])
def test_an_interrupted_harvest_from_files_ends_in_the_same_bytes(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_batches: int
) -> None:
    outside = setting.open(setting.files(tmp_path / "files"))
    setting.harvest(tmp_path / "whole", outside)
    done: list[int] = []

    def extract(*arguments: Any) -> Any:
        if len(done) == n_batches:
            raise KeyboardInterrupt
        done.append(1)
        return extraction.extract(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(harvest_module, "extract", extract)
        with pytest.raises(KeyboardInterrupt):
            setting.harvest(tmp_path / "run", outside)
    # The check is not made twice.
    with monkeypatch.context() as patch:
        patch.setattr(harvest_module, "check_fidelity", AssertionError("checked again"))
        with pytest.raises(
            FormatError, match="holds a part of a harvest from files, which the models do not"
        ):
            setting.harvest(tmp_path / "run", None)
        setting.harvest(tmp_path / "run", setting.open(tmp_path / "files"))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert shards(tmp_path / "run") == setting.whole


def test_parts_from_files(setting: Setting, tmp_path: Path) -> None:
    outside = setting.open(setting.files(tmp_path / "files"))
    config = setting.config.model_copy(update={"output": tmp_path / "run"})
    for number in (2, 1):
        with folder_of_part(config, Part(number, 2)) as folder:
            harvest_part(folder, setting.config, setting.pair, setting.documents, Part(number, 2), outside)
            with pytest.raises(FormatError, match="holds a part of a harvest from files"):
                harvest_part(folder, setting.config, setting.pair, setting.documents, Part(number, 2))
    assert join_parts(RunFolder(tmp_path / "run"))
    assert shards(tmp_path / "run") == setting.whole
    assert RunFolder(tmp_path / "run").read_manifest()["stages"]["harvest"]["outside"]["fidelity"]


def test_files_to_a_url(setting: Setting, models: Path, tmp_path: Path) -> None:
    """A harvest from files that was cut short at a URL is finished there from another run folder, and not by the models."""
    store = {"url": (tmp_path / "store").as_uri()}
    activations = setting.config.activations.model_dump() | {"store": store}
    config = RunConfig.model_validate(setting.config.model_dump() | {"activations": activations})
    outside = setting.open(setting.files(tmp_path / "files"))
    for number in (1, 2):
        with (
            folder_of_part(
                config.model_copy(update={"output": tmp_path / f"run{number}"}), Part(number, 2)
            ) as run,
            pytest.MonkeyPatch.context() as patch,
        ):
            if number == 2:
                with pytest.raises(FormatError, match="holds a part of a harvest from files"):
                    harvest_part(run, config, setting.pair, setting.documents, Part(2, 2))
                patch.setattr(harvest_module, "check_fidelity", AssertionError("checked again"))
            harvest_part(run, config, setting.pair, setting.documents, Part(number, 2), outside)
    assert join_parts(RunFolder(tmp_path / "run1"), config)
    written = {
        name: (tmp_path / "store" / name).read_bytes()
        for name in setting.whole
        if name != "documents.safetensors"
    }
    assert written == {name: content for name, content in setting.whole.items() if name in written}
    assert len(written) == len(setting.whole) - 1


def test_files_and_models_are_not_mixed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = setting.open(setting.files(tmp_path / "files"))
    before = contents(setting.folder / "whole")
    with pytest.raises(FormatError, match="holds activations that the models computed"):
        setting.harvest(setting.folder / "whole", outside)
    assert contents(setting.folder / "whole") == before
    setting.harvest(tmp_path / "run", outside)
    rounded: Changes = dict.fromkeys(setting.found, lambda values: values.bfloat16())
    other = setting.open(setting.files(tmp_path / "other", rounded))
    with pytest.raises(FormatError, match="holds the activations of other files"):
        setting.harvest(tmp_path / "run", other)
    # Files that moved are the same files.
    (tmp_path / "files").rename(tmp_path / "moved")
    monkeypatch.setattr(harvest_module, "extract", AssertionError("harvested again"))
    setting.harvest(tmp_path / "run", setting.open(tmp_path / "moved"))


# --- the comparison with the models ---------------------------------------------------------------------------------------


def rotated(angle: float) -> Change:
    """Rotate the first two directions, the next two, and so on."""
    cos, sin = np.cos(angle), np.sin(angle)

    def change(values: Tensor) -> Tensor:
        even, odd = values[:, ::2], values[:, 1::2]
        return torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=2).flatten(1)

    return change


def last_is_missing(values: Tensor) -> Tensor:
    return torch.cat([values[:-1], torch.zeros_like(values[:1])])


def first_is_another(values: Tensor) -> Tensor:
    return torch.cat([values[1:2], values[1:]])


def half_is_missing(values: Tensor) -> Tensor:
    """Tokens of a chunk were never filled in."""
    return torch.where(torch.arange(len(values))[:, None] % 4 == 2, 0, values)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (rotated(0.05), "no layer of the model matches"),
        (lambda values: 1.05 * values, "no layer of the model matches"),
        (lambda values: values.roll(1, 0), "they match the hookpoint if every token comes one late"),
        (lambda values: values.roll(-1, 0), "they match the hookpoint if every token comes one early"),
        (last_is_missing, "the last tokens differ"),
        (first_is_another, "the first tokens differ"),
        (half_is_missing, "many tokens differ; switch chunked prefill and prefix caching off"),
    ],
    ids=["rotated", "scaled", "late", "early", "last", "first", "chunk"],
)  # fmt: skip
def test_what_is_not_rounding_is_refused(
    setting: Setting, tmp_path: Path, change: Change, complaint: str
) -> None:
    with pytest.raises(
        DataError, match=r"not the activations of the intervened model at model\.layers\.1"
    ) as caught:
        setting.check(tmp_path / "files", {"intervened": change})
    assert complaint in str(caught.value)
    assert "relative error" in str(caught.value) and "(at most 0.01)" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error"),
    [(lambda values: values.bfloat16(), 2e-3), (lambda values: values.half(), 3e-4), (rotated(0.004), 4e-3)],
    ids=["bfloat16", "float16", "a rotation as small as rounding"],
)
def test_rounding_is_accepted(setting: Setting, tmp_path: Path, change: Change, error: float) -> None:
    found = setting.check(tmp_path / "files", dict.fromkeys(setting.found, change))
    for one in found.values():
        assert 0.2 * error < one["relative_error"] < 2 * error
        assert one["far_share"] == 0


def test_another_layer_is_named(setting: Setting, tmp_path: Path) -> None:
    for place, named in (
        ("model.layers.0", "the output of decoder layer 0"),
        ("model.layers.2", "the output of decoder layer 2"),
        ("model.embed_tokens", "the input of decoder layer 0"),
        ("model.norm", "the output of the final norm, after the last decoder layer"),
    ):
        wrong = {name: dict(own) for name, own in setting.found.items()}
        for ids in wrong["reference"]:
            tokens = torch.tensor([ids])
            wrong["reference"][ids] = setting.pair.outputs(
                [place], tokens, torch.ones_like(tokens).bool(), 0
            )[0][0]
        files = setting.open(write_files(tmp_path / place, wrong))
        with pytest.raises(DataError) as caught:
            check_fidelity(setting.pair, setting.documents, files, 96)
        assert f"they match {named} (relative error" in str(caught.value)
        assert "the output of decoder layer 1, layer id 2 of vLLM" in str(caught.value)


def test_a_close_model_is_told_from_the_other(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The two models differ by less than two programs may: files of one in place of the other are within the limit."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models / "a")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 3e-4 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "close")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "close" / name).write_bytes((models / "a" / name).read_bytes())
    setting = Setting(tmp_path, run_config(tmp_path, models / "a", tmp_path / "close"))
    found = setting.check(tmp_path / "right", {})
    assert "may be how the activations were computed" not in caplog.text
    swapped = dict(zip(setting.found, reversed(setting.found.values()), strict=True))
    files = setting.open(write_files(tmp_path / "swapped", swapped))
    with pytest.raises(DataError, match="they match those of the intervened model") as caught:
        check_fidelity(setting.pair, setting.documents, files, 96)
    error = float(str(caught.value).rpartition("; relative error ")[2].split()[0])
    assert found["reference"]["relative_error"] < error < found["reference"]["limit"]
    setting.check(tmp_path / "rounded", dict.fromkeys(setting.found, lambda values: values.bfloat16()))
    assert "may be how the activations were computed" in caplog.text


# --- what the files may be ------------------------------------------------------------------------------------------------


def one_file(folder: Path) -> Path:
    return sorted((folder / "intervened").iterdir())[3]


def rewritten(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        save_file(change(load_file(one_file(folder))), one_file(folder))

    return damage


def with_states(change: Change) -> Callable[[Path], None]:
    return rewritten(
        lambda tensors: tensors | {"hidden_states": change(tensors["hidden_states"]).contiguous()}
    )


def truncated(folder: Path) -> None:
    one_file(folder).write_bytes(one_file(folder).read_bytes()[:-10])


def no_text(folder: Path) -> None:
    one_file(folder).write_bytes(b"\xff" * 100)


def twice(folder: Path) -> None:
    (folder / "intervened" / "again.safetensors").write_bytes(one_file(folder).read_bytes())


def without_models(folder: Path) -> None:
    (folder / "intervened").rename(folder / "mine")


def emptied(folder: Path) -> None:
    for path in (folder / "intervened").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: one_file(folder).unlink(), "1 of 32 documents have no file of the intervened model (document "),
        (rewritten(lambda t: {name: one[1:] for name, one in t.items()}), "1 files hold token ids of no document"),
        (with_states(lambda values: values[1:]), "tokens, but token ids of "),
        (with_states(lambda values: values[:, :12]), "(12,) for each token" ),
        (with_states(lambda values: values.bfloat16()), "is torch.bfloat16 of shape"),
        (with_states(lambda values: values.long()), "it must be floating point"),
        (with_states(lambda values: values[0]), "it must be floating point, [token, d_model]"),
        (rewritten(lambda t: {"values": t["hidden_states"]}), "holds values; a file of activations has token_ids [token]"),
        (rewritten(lambda t: t | {"token_ids": t["token_ids"].float()}), "token_ids is torch.float32"),
        (truncated, "truncated"),
        (no_text, "truncated, or not a safetensors file"),
        (twice, "holds the tokens of document"),
        (without_models, "--from-files: "),
        (emptied, "holds no safetensors file"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused_by_name(
    setting: Setting, tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(files := setting.files(tmp_path / "files"))
    with pytest.raises((ConfigError, DataError, FormatError)) as caught:
        setting.open(files)
    assert complaint in str(caught.value).replace("(16,) for each token", "(12,) for each token")
    assert "intervened" in str(caught.value) and "\n" not in str(caught.value)


def test_another_width_and_values_that_are_not_finite(setting: Setting, tmp_path: Path) -> None:
    narrow = setting.files(tmp_path / "narrow", {"intervened": lambda values: values[:, :12]})
    with pytest.raises(
        DataError, match=r"activations are 12 wide, but the intervened model is 16 wide at model\.layers\.1"
    ):
        setting.open(narrow)

    def broken(values: Tensor) -> Tensor:
        return values.index_fill(0, torch.tensor([2]), float("nan"))

    with pytest.raises(
        DataError, match=r"request-\d+.safetensors: hidden_states of the reference model are NaN or inf"
    ):
        setting.check(tmp_path / "nan", {"reference": broken})


def test_files_of_other_texts_are_counted(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = setting.files(tmp_path / "files")
    for number in range(2):
        tensors = {"token_ids": torch.tensor([5, number]), "hidden_states": torch.zeros(2, 16)}
        save_file(tensors, files / "reference" / f"other-{number}.safetensors")
    setting.harvest(tmp_path / "run", setting.open(files))
    assert "2 files in " in caplog.text and "token ids are those of no document" in caplog.text
    assert shards(tmp_path / "run") == setting.whole


def test_a_file_that_is_written_over_meanwhile_is_refused(tmp_path: Path) -> None:
    ids = np.arange(4)
    path = tmp_path / "one.safetensors"
    save_file({"token_ids": torch.arange(4), "hidden_states": torch.zeros(4, 6)}, path)
    files = DocumentFiles(tmp_path, "reference", {0: ids}, None)
    assert files.activations(0, slice(None)).shape == (4, 6)
    save_file({"token_ids": torch.arange(1, 5), "hidden_states": torch.zeros(4, 6)}, path)
    with pytest.raises(DataError, match="changed while it was read"):
        files.activations(0, slice(None))


# --- the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(setting: Setting, tmp_path: Path) -> Path:
    path = tmp_path / "pair.yaml"
    settings = setting.config.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(settings | {"output": str(tmp_path / "run"), "threads": 1}))
    return path


TRAINING = [
    "crosscoder.n_latents=24", "crosscoder.sparsity.k=4", "training.n_tokens=1500", "training.batch_tokens=128", "training.lr=1e-3",
    "controls={seeds: 0, drift: false, intermittent: false, identity: false, shuffled: false}", "survey.documents=0", "wandb.mode=disabled",
]  # fmt: skip


def test_token_ids_then_files_then_a_dictionary(
    setting: Setting, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(outside_activations, "load_pair", AssertionError("loaded the models"))
        assert crosscoder("harvest", settings_file, "--token-ids", tmp_path / "ids") == Said(0, "")
    assert [path.name for path in (tmp_path / "ids").iterdir()] == ["token_ids.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "ids" / "token_ids.jsonl").read_text().splitlines()]
    for line in lines:
        assert setting.documents.tokens_of(line["document"]).tolist() == line["token_ids"]
    assert {line["document"] for line in lines} == set(np.flatnonzero(setting.documents.unmasked).tolist())
    # What the server does: each prompt by itself.
    for model, name in enumerate(setting.pair.model_names):
        (tmp_path / "files" / name).mkdir(parents=True)
        for line in lines:
            ids = torch.tensor([line["token_ids"]])
            states = setting.pair.outputs(["model.layers.1"], ids, torch.ones_like(ids).bool(), model)[0][0]
            path = tmp_path / "files" / name / f"{line['document']}.safetensors"
            save_file({"token_ids": ids[0], "hidden_states": states[:, None].contiguous()}, path)
    assert crosscoder("harvest", settings_file, "--from-files", tmp_path / "files") == Said(0, "")
    for name, content in setting.whole.items():
        assert len((tmp_path / "run/activations" / name).read_bytes()) == len(content)
    assert crosscoder("train", settings_file, *TRAINING) == Said(0, "")
    assert (tmp_path / "run/crosscoder/model.safetensors").is_file()
    stages = RunFolder(tmp_path / "run").read_manifest()["stages"]
    assert stages["harvest"]["outside"]["fidelity"]["models"]["intervened"]["relative_error"] < 1e-5


def test_models_that_read_other_tokens_have_a_file_each(tmp_path: Path, models: Path) -> None:
    for make, wanted in (
        (in_context, ["intervened", "reference"]),
        (two_tokenizers, ["intervened", "reference"]),
    ):
        config = make(tmp_path / make.__name__, models)
        settings = config.model_dump(mode="json", exclude_unset=True)
        path = tmp_path / f"{make.__name__}.yaml"
        path.write_text(yaml.safe_dump(settings))
        target = tmp_path / make.__name__ / "ids"
        assert crosscoder("harvest", path, "--token-ids", target) == Said(0, "")
        assert sorted(one.stem for one in target.iterdir()) == wanted
        reference, intervened = (
            [json.loads(line)["token_ids"] for line in (target / f"{name}.jsonl").read_text().splitlines()]
            for name in ("reference", "intervened")
        )
        if make is in_context:
            n_before = len(intervened[0]) - len(reference[0])
            assert n_before > 2
            assert [ids[n_before:] for ids in intervened] == reference
        else:
            assert reference != intervened


def test_parts_by_the_command(setting: Setting, settings_file: Path, tmp_path: Path) -> None:
    files = setting.files(tmp_path / "files")
    assert crosscoder("harvest", settings_file, "--part", "2/2", "--from-files", files) == Said(0, "")
    said = crosscoder("harvest", settings_file, "--from-files", files)
    assert said.code == 2 and "part 1 of 2 is not finished" in said.error
    said = crosscoder("harvest", settings_file, "--part", "1/2")
    assert said.code == 2 and "holds a part of a harvest from files" in said.error
    assert crosscoder("harvest", settings_file, "--part", "1/2", "--from-files", files) == Said(0, "")
    assert crosscoder("harvest", settings_file, "--join") == Said(0, "")
    assert shards(tmp_path / "run") == setting.whole


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--token-ids", "ids", "--from-files", "files"], "--token-ids: harvests nothing; give it alone"),
        (["--token-ids", "ids", "--part", "1/2"], "--token-ids: harvests nothing; give it alone"),
        (["--from-files", "files", "--join"], "--from-files, --join: give one of them"),
        (["--file-layer", "1"], "--file-layer: says how to read files, but --from-files is not given"),
        (["--from-files", "nowhere"], "--from-files: nowhere/reference is not a folder"),
        (["--from-files", "nowhere", "--part", "1/2"], "--from-files: nowhere/reference is not a folder"),
        (["--from-files", "nowhere", "activations.kind=stream"], "activations.kind: --from-files makes a harvest of all tokens"),
        (["--token-ids", "ids", "activations.kind=stream"], "activations.kind: --token-ids makes a harvest of all tokens"),
    ],
)  # fmt: skip
def test_bad_words_are_refused(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = crosscoder("harvest", settings_file, *words)
    assert said.code == 2 and complaint in said.error and "\n" not in said.error
    assert not (tmp_path / "run/config.yaml").exists() and not (tmp_path / "ids").exists()


@pytest.mark.slow
def test_two_ranks_harvest_from_files_what_one_process_does(
    setting: Setting, settings_file: Path, tmp_path: Path
) -> None:
    """Rank 0 alone reads the files; the other rank ends with it."""
    files = setting.files(tmp_path / "files")
    words = ("-m", "crosscoder", "harvest", settings_file, "--from-files", files)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_python(*launcher, *words, folder=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "rank 0 alone reports"
    assert shards(tmp_path / "run") == setting.whole
    # A mistake ends both, and is said once.
    wrong = setting.files(tmp_path / "wrong", {"reference": lambda values: 2 * values})
    words = (*words[:-1], wrong, f"output={tmp_path / 'other'}")
    done = run_python(*launcher, *words, folder=tmp_path, timeout=200)
    said = [line for line in done.stderr.splitlines() if line.startswith("crosscoder: ")]
    assert done.returncode != 0 and len(said) == 1 and said[0].startswith("crosscoder: rank 0: "), done.stderr
