"""What SAE.from_pretrained of SAELens names is loaded, with what SAELens knows of it; its table is the real one, its files are ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from crosscoder import load_crosscoder
from crosscoder.config import TopK
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.errors import ConfigError, FormatError
from tests.foreign_dictionaries import FIXTURES, POOLED, saelens

pytestmark = [
    pytest.mark.slow,  # importing sae-lens takes several seconds
    pytest.mark.filterwarnings("ignore"),
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RELEASE = "gpt2-small-resid-post-v5-32k"
SOURCE = f"saelens:{RELEASE}/blocks.3.hook_resid_post"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub whose repositories are folders, ORG--NAME; the cache remembers a commit as the real one does."""
    from sae_lens.loading import pretrained_sae_loaders

    hub, cache = tmp_path / "hub", tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def hf_hub_download(repo_id: str, filename: str, **_: Any) -> str:
        path = hub / repo_id.replace("/", "--") / filename
        if not path.is_file():
            raise EntryNotFoundError(f"404: {filename}")
        refs = cache / f"models--{repo_id.replace('/', '--')}" / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(COMMIT)
        return str(path)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", hf_hub_download)
    return hub


def folder_of(remote: Path, source: str) -> Path:
    """Return where the files of a source have to be."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, _, sae_id = source.removeprefix("saelens:").partition("/")
    entry = get_pretrained_saes_directory()[release]
    return remote / entry.repo_id.replace("/", "--") / entry.saes_map[sae_id]


def test_a_release_computes_what_its_files_do_and_keeps_what_saelens_knows(remote: Path) -> None:
    expected = saelens(folder_of(remote, SOURCE), "topk", k=4, apply_b_dec_to_input=True)
    found = import_dictionary(DictionarySource(source=SOURCE, **POOLED))
    with torch.no_grad():
        codes = found.crosscoder.encode(expected.activations)
        torch.testing.assert_close(codes, expected.codes, rtol=1e-5, atol=1e-5)
        rebuilt = found.crosscoder.decode(codes)
        assert isinstance(rebuilt, torch.Tensor)
        torch.testing.assert_close(rebuilt[:, 0], expected.reconstruction, rtol=1e-4, atol=1e-4)
    origin = found.provenance["imported"]
    assert (origin["source"], origin["revision"], origin["dialect"]) == (SOURCE, COMMIT, "saelens")
    said = origin["described"]
    assert (said["release"], said["sae_id"], said["model"]) == (
        RELEASE,
        "blocks.3.hook_resid_post",
        "gpt2-small",
    )
    assert said["repository"] == "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs"
    assert sorted(origin["sha256"]) == ["cfg.json", "sae_weights.safetensors"]


def test_an_older_file_whose_factor_is_in_the_table_is_not_asked_for_it(remote: Path) -> None:
    source = "saelens:gpt2-small-mlp-tm/blocks.1.hook_mlp_out"
    factor = 2.3693984005104283
    folder = folder_of(remote, source)
    expected = saelens(folder, "standard", apply_b_dec_to_input=False)
    settings = json.loads((folder / "cfg.json").read_text())
    settings |= {"sae_lens_version": "3.0.0", "normalize_activations": "expected_average_only_in"}
    (folder / "cfg.json").write_text(json.dumps(settings | {"hook_point": "blocks.1.hook_mlp_out"}))
    with pytest.raises(ConfigError, match=r"center_writing_weights.*--normalization centered"):
        load_crosscoder(source, **POOLED)
    crosscoder = load_crosscoder(source, **POOLED, normalization="none")
    with torch.no_grad():
        codes = crosscoder.encode(expected.activations / factor)
    torch.testing.assert_close(codes, expected.codes, rtol=1e-4, atol=1e-5)


def test_a_release_in_the_format_of_another_tool_is_converted_by_saelens(remote: Path) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = next(
        name
        for name, entry in get_pretrained_saes_directory().items()
        if entry.conversion_func == "dictionary_learning_1" and "_topk_" in name
    )
    source = f"saelens:{release}/{next(iter(get_pretrained_saes_directory()[release].saes_map))}"
    fixture = FIXTURES / "dictionary_learning" / "topk"
    ours = load_crosscoder(fixture, **POOLED)
    assert isinstance(ours.config.sparsity, TopK)
    shutil.copytree(fixture, folder_of(remote, source))
    trainer = {
        "dict_class": "AutoEncoderTopK",
        "layer": 12,
        "lm_name": "google/gemma-2-2b",
        "k": ours.config.sparsity.k,
    }
    trainer |= {"activation_dim": ours.config.width, "dict_size": ours.config.n_latents}
    settings = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    (folder_of(remote, source) / "config.json").write_text(json.dumps(settings))
    theirs = load_crosscoder(source, **POOLED)
    values = torch.randn(40, *ours.config.d_models, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(values), ours.encode(values), rtol=1e-5, atol=1e-5)
        assert (ours.encode(values) > 0).any()


def test_what_our_dictionary_does_not_have_is_refused_by_name(remote: Path) -> None:
    folder = folder_of(remote, SOURCE)
    saelens(folder, "standard", normalize_activations="layer_norm")
    with pytest.raises(FormatError, match=f"^{SOURCE}: .*layer_norm normalizes each token by its own mean"):
        load_crosscoder(SOURCE, **POOLED)
    saelens(folder, "standard")
    with pytest.raises(ConfigError, match="give --reads pooled"):
        load_crosscoder(SOURCE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("saelens:gpt2-smal-res-jb/blocks.8.hook_resid_pre", r"no release 'gpt2-smal-res-jb' \(did you mean 'gpt2-small-res-jb'"),
        ("saelens:gpt2-small-res-jb/blocks.8.resid_pre", r"has no SAE 'blocks.8.resid_pre' \(did you mean 'blocks.8.hook_resid_pre'"),
        ("saelens:gpt2-small-res-jb/8", r"has no SAE '8'; it has blocks\.8\.hook_resid_pre, .*, and \d+ more"),
        ("saelens:gpt2-small-res-jb", r"has no SAE ''; it has blocks"),
        ("saelens:", r"no release ''; give saelens:RELEASE/SAE_ID"),
        ("saelens:jbloom/GPT2", r"no release 'jbloom'.*or the Hub id"),
    ],
)  # fmt: skip
def test_an_unknown_name_lists_near_ones(remote: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_crosscoder(source, **POOLED)


@pytest.mark.parametrize(
    "options", [{"revision": "main"}, {"subfolder": "inside"}], ids=lambda options: next(iter(options))
)
def test_options_without_effect_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: has no effect on {SOURCE}"):
        load_crosscoder(SOURCE, **options, **POOLED)


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline\nmore"), OSError("no route")], ids=repr)
def test_without_the_hub_it_is_one_line(
    error: Exception, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens.loading import pretrained_sae_loaders

    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", fail)
    with pytest.raises(
        FormatError, match=r"cannot load v5_32k_layer_3.pt of jbloom/.* from the Hub"
    ) as caught:
        load_crosscoder(SOURCE, **POOLED)
    assert "\n" not in str(caught.value)
