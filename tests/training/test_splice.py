"""Cross-entropy with the reconstruction spliced in: a perfect dictionary loses nothing, an empty one everything."""

import pytest
import torch

from crosscoder.config import CrosscoderConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import View
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.documents import Documents, tokenize
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training.splice import cross_entropy

Setting = tuple[ModelPair, Documents]
WIDTH = 16


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A tiny Llama and the same under an adapter, with texts."""
    folder = tmp_path_factory.mktemp("splice")
    llama = save_llama(folder / "llama")
    config = run_config(folder, llama, {"adapter": str(save_adapter(llama, folder / "adapter"))})
    assert config.pair is not None and config.text is not None
    pair = load_pair(config.pair)
    return pair, tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, 0)


def perfect(reads: View) -> Crosscoder:
    """Reconstructs everything, with a positive and a negative latent for each dimension."""
    d_models = (WIDTH, WIDTH) if reads == "paired" else (WIDTH,)
    width = sum(d_models)
    config = CrosscoderConfig(
        d_models=d_models,
        model_names=tuple(f"m{i}" for i in range(len(d_models))),
        n_latents=2 * width,
        sparsity=ReLU(target_l0=1),
    )
    crosscoder = Crosscoder(config)
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        crosscoder.W_dec.copy_(both)
        crosscoder.W_enc.copy_(both.T)
    return crosscoder


def test_a_perfect_dictionary_recovers_everything_in_both_models(setting: Setting) -> None:
    pair, documents = setting
    result = cross_entropy(pair, perfect("paired"), documents, "paired", torch.zeros(2 * WIDTH))
    for name in ("reference", "intervened"):
        assert result[name]["spliced"] == pytest.approx(result[name]["clean"], abs=1e-5)
        assert result[name]["ablated"] != pytest.approx(result[name]["clean"], abs=1e-3)
    assert result["reference"]["clean"] != pytest.approx(result["intervened"]["clean"], abs=1e-4)


def test_an_empty_dictionary_is_the_ablation(setting: Setting) -> None:
    """Without latents the reconstruction is the bias: the mean, which the ablation uses too."""
    pair, documents = setting
    crosscoder = perfect("paired")
    mean = torch.linspace(-1, 1, 2 * WIDTH)
    with torch.no_grad():
        crosscoder.W_dec.zero_()
        crosscoder.b_dec.copy_(mean)
    result = cross_entropy(pair, crosscoder, documents, "paired", mean)
    for values in result.values():
        assert values["spliced"] == pytest.approx(values["ablated"], abs=1e-6)


@pytest.mark.parametrize(
    ("reads", "models"), [("pooled", {"reference", "intervened"}), ("difference", {"intervened"})]
)
def test_other_views(setting: Setting, reads: View, models: set[str]) -> None:
    pair, documents = setting
    result = cross_entropy(pair, perfect(reads), documents, reads, torch.zeros(2 * WIDTH))
    assert result.keys() == models
    for values in result.values():
        assert values["spliced"] == pytest.approx(values["clean"], abs=1e-5)


def test_clean_cross_entropy_equals_the_model_s_loss(setting: Setting) -> None:
    """Compared with the loss of transformers, one document at a time."""
    pair, documents = setting
    result = cross_entropy(pair, perfect("paired"), documents, "paired", torch.zeros(2 * WIDTH))
    total, count = 0.0, 0
    for document in documents.split(held_out=True):
        ids = torch.from_numpy(documents.tokens_of(int(document)).astype("int64"))[None]
        with pair.switched(0) as model, torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert result["reference"]["clean"] == pytest.approx(total / count, rel=1e-5)
