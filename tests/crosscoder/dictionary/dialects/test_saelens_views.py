"""SAEs of SAELens that view one model of a dictionary compute what the dictionary says they do."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import crosscoder as package
from crosscoder.activations.batch import split_models
from crosscoder.config import CrosscoderConfig, JumpReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.saelens_views import sae, write_views
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ConfigError, FormatError
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder

pytestmark = [
    pytest.mark.slow,  # importing sae-lens takes several seconds
    pytest.mark.filterwarnings("ignore"),
]


def agreeing(crosscoder: Crosscoder, values: Tensor, model: int) -> Tensor:
    """Return raw activations of all models whose normalized activations are those of one model."""
    parts = split_models(crosscoder.normalize(values), crosscoder.config.d_models)
    return crosscoder.denormalize(torch.cat([parts[model]] * len(parts), dim=1))


def weights_of(crosscoder: Crosscoder) -> Tensor:
    """Return what SAELens multiplies the values of latents by: with TopK, the weight that they compete with."""
    ones = torch.ones(crosscoder.config.n_latents)
    return crosscoder.score_norms().detach() if crosscoder.config.sparsity.kind == "topk" else ones


@pytest.mark.parametrize("shape", [name for name, widths in SHAPES.items() if len(set(widths)) == 1])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_view_alone_is_the_dictionary_where_the_models_agree(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape)
    values = raw_activations(crosscoder.config.d_models)
    for index, model in enumerate(crosscoder.config.model_names):
        both = agreeing(crosscoder, values, index)
        codes = crosscoder.encode(both)
        rebuilt = crosscoder.decode(codes)
        assert isinstance(rebuilt, Tensor)
        view = package.sae(crosscoder, model)
        own = split_models(both, crosscoder.config.d_models)[index]
        found = view.encode(own)
        found = found.to_dense() if found.is_sparse else found
        assert torch.equal(found > 0, codes > 0)
        torch.testing.assert_close(found, codes * weights_of(crosscoder), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(view.decode(found), rebuilt[:, index], rtol=1e-5, atol=1e-4)
        assert (codes > 0).any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "topk"])
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "one"])
@torch.no_grad()
def test_the_view_that_reads_all_models_is_exact(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape)
    values = raw_activations(crosscoder.config.d_models)
    codes = crosscoder.encode(values)
    rebuilt = crosscoder.decode(codes)
    parts = rebuilt if isinstance(rebuilt, tuple) else rebuilt.unbind(dim=1)
    for model, part in zip(crosscoder.config.model_names, parts, strict=True):
        view = sae(crosscoder, model, alone=False)
        assert view.cfg.metadata.view.startswith("exact")
        torch.testing.assert_close(view.encode(values), codes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(view.decode(codes), part, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_shared_dictionary_is_its_own_view_of_either_model(kind: str, tmp_path: Path) -> None:
    like = small_crosscoder(kind, "one")
    crosscoder = Crosscoder(like.config.model_copy(update={"model_names": ("pooled",)}))
    crosscoder.load_state_dict(like.state_dict())
    pair = {
        "reference": {"model": "before", "hookpoint": "layers.3"},
        "intervened": {"model": "after", "hookpoint": "layers.4"},
    }
    save_crosscoder(crosscoder, tmp_path, {"pair": pair})
    values = raw_activations((6,))
    codes = crosscoder.encode(values)
    for model, name, hook in (("reference", "before", "layers.3"), ("intervened", "after", "layers.4")):
        view = sae(tmp_path, model)
        found = view.encode(values)
        found = found.to_dense() if found.is_sparse else found
        torch.testing.assert_close(found, codes * weights_of(crosscoder), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(view(values), crosscoder(values)[:, 0], rtol=1e-5, atol=1e-4)
        assert (view.cfg.metadata.model_name, view.cfg.metadata.hook_name) == (name, hook)
        assert view.cfg.metadata.view == "exact"


def test_an_approximation_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        view = sae(small_crosscoder("relu", "two"), "intervened")
    assert "approximation" in caplog.text
    assert "approximation" in view.cfg.metadata.view


def test_what_has_no_view_is_refused_by_name(tmp_path: Path) -> None:
    two, unequal = small_crosscoder("topk", "two"), small_crosscoder("relu", "two_unequal")
    with pytest.raises(
        ConfigError, match=r"'referense' is no model of this dictionary .did you mean 'reference'"
    ):
        sae(two, "referense")
    with pytest.raises(FormatError, match="no transcoder with topk"):
        sae(two, "reference", alone=False)
    with pytest.raises(FormatError, match=r"differ in width \(5, 8\)"):
        sae(unequal, "reference")
    config = CrosscoderConfig(
        d_models=(6,), model_names=("difference",), n_latents=8, sparsity=JumpReLU(target_l0=None)
    )
    with pytest.raises(FormatError, match="reads differences of two models"):
        sae(Crosscoder(config), "reference")
    with pytest.raises(ConfigError, match="no such run folder"):
        sae(tmp_path / "missing", "reference")
    uncalibrated = small_crosscoder("batch_topk", "two")
    uncalibrated.sparsity.get_buffer("threshold").fill_(torch.nan)
    with pytest.raises(FormatError, match="never calibrated"):
        sae(uncalibrated, "reference")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "topk"])
@pytest.mark.parametrize("shape", ["two", "two_unequal"])
def test_a_view_of_one_model_reconstructs_that_model(tmp_path: Path, kind: str, shape: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE
    crosscoder = small_crosscoder(kind, shape)
    values = raw_activations(crosscoder.config.d_models)
    written = write_views(crosscoder, tmp_path)
    assert [place.name for place in written] == list(crosscoder.config.model_names)
    with torch.no_grad():
        latents = crosscoder.encode(values)
        rebuilt = crosscoder.decode(latents)
        parts = rebuilt if isinstance(rebuilt, tuple) else rebuilt.unbind(dim=1)
        for place, part in zip(written, parts, strict=True):
            sae = SAE.load_from_disk(str(place))
            torch.testing.assert_close(sae.encode(values), latents, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(sae.decode(latents), part, rtol=1e-4, atol=1e-3)


def test_there_is_no_view_of_topk_or_of_one_model(tmp_path: Path) -> None:
    assert write_views(small_crosscoder("topk", "two"), tmp_path) == []
    assert write_views(small_crosscoder("relu", "one"), tmp_path) == []
