"""SAELens loads an export that computes the same as the crosscoder."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from crosscoder.dictionary.dialects.import_dictionary import load_crosscoder
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.errors import FormatError
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder

pytestmark = pytest.mark.slow  # importing sae-lens takes several seconds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_saelens_encodes_and_decodes_identically(tmp_path: Path, kind: str, shape: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE
    crosscoder = small_crosscoder(kind, shape)
    values = raw_activations(crosscoder.config.d_models)
    crosscoder.calibrate(values)
    export_saelens(crosscoder, tmp_path, {"model_name": "a pair"})
    sae = SAE.load_from_disk(str(tmp_path))
    assert sae.cfg.metadata.model_name == "a pair"
    with torch.no_grad():
        latents = crosscoder.encode(values)
        theirs = sae.encode(values)
        factor = crosscoder.score_norms() if kind == "topk" else torch.ones(crosscoder.config.n_latents)
        torch.testing.assert_close(theirs, latents * factor, rtol=1e-4, atol=1e-4)
        rebuilt = crosscoder.denormalize(crosscoder.rebuild(latents))
        torch.testing.assert_close(sae.decode(theirs), rebuilt, rtol=1e-4, atol=1e-3)
    assert (latents > 0).any()


def test_an_uncalibrated_dictionary_is_refused(tmp_path: Path) -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    crosscoder.sparsity.get_buffer("threshold").fill_(torch.nan)
    with pytest.raises(FormatError, match="never calibrated"):
        export_saelens(crosscoder, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {"apply_b_dec_to_input": True}),
        ("standard", {"apply_b_dec_to_input": False}),
        ("jumprelu", {"apply_b_dec_to_input": True}),
        ("topk", {"k": 4, "apply_b_dec_to_input": True}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    ],
)
def test_an_sae_of_saelens_computes_the_same_here(
    tmp_path: Path, architecture: str, options: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.registry import get_sae_class
    kind, settings = get_sae_class(architecture)
    sae = kind(settings(d_in=6, d_sae=20, **options))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
        sae.W_dec.mul_(torch.randn(20, 1, generator=generator).exp())
    sae.save_model(tmp_path)
    crosscoder = load_crosscoder(tmp_path, reads="pooled")
    values = raw_activations((6,))
    with torch.no_grad():
        theirs = sae.encode(values).to_dense()
        codes = crosscoder.encode(values)
        assert torch.equal(codes > 0, theirs > 0)
        torch.testing.assert_close(codes, theirs, rtol=1e-4, atol=1e-4)
        rebuilt = crosscoder.denormalize(crosscoder.rebuild(codes))
        torch.testing.assert_close(rebuilt, sae.decode(theirs), rtol=1e-4, atol=1e-4)
    assert (codes > 0).any()


@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_sae_that_saelens_saves_is_read_or_refused_by_its_name(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens.registry import SAE_CLASS_REGISTRY
    needed = {"temporal": {"n_heads": 2, "bottleneck_factor": 1, "kval_topk": 4}, "topk": {"k": 4}}
    read: dict[str, str] = {}
    for name, (kind, settings) in SAE_CLASS_REGISTRY.items():
        options: dict[str, Any] = {"d_in": 6, "d_sae": 20} | needed.get(name, {})
        if "transcoder" in name:
            options["apply_b_dec_to_input"] = False
        kind(settings(**options)).save_model(tmp_path / name)
        if name in ("standard", "topk", "jumprelu"):
            read[name] = load_crosscoder(tmp_path / name, reads="pooled").config.sparsity.kind
            continue
        with pytest.raises(FormatError) as caught:
            load_crosscoder(tmp_path / name, reads="pooled")
        message = str(caught.value).removeprefix(str(tmp_path / name))
        assert ("transcoder" if "transcoder" in name else name) in message and "\n" not in message
    assert read == {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
    assert {"gated", "temporal", "transcoder"} <= SAE_CLASS_REGISTRY.keys()
