"""SAELens loads an export that computes the same as the crosscoder."""

import warnings
from pathlib import Path

import pytest
import torch

from crosscoder.dictionary.saelens import export_saelens
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
