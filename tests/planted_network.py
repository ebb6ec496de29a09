"""A network with planted mediation of its shift: through two latents, through the dictionary's error, and through later weights.

    h      = embedding                      the hookpoint, whose output is exactly the embedding
    M      = squash(⟨u, h⟩) + constant      the difference of two logits

The intervened model adds g_1 and g_2 to its embeddings along the directions of two latents, and e along a direction of no latent; it
also has another constant. The projections ⟨u, ·⟩ of all three are planted, and with them the shares of the shift: integrated gradients
of a function of one projection are proportional to the projections.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from crosscoder.config import CrosscoderConfig, PairConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.language_models.networks import Networks
from crosscoder.language_models.pair import ModelPair

WIDTH, VOCABULARY = 12, 320
YES, NO = 5, 6
U, FIRST, SECOND, ERROR = range(4)
"""Dimensions: the one that is read out, those of the two latents, and that of the error."""


class Above(nn.Module):
    """The layer above the hookpoint: a nonlinear function of the projection that is read out."""

    def __init__(self, constant: float, curvature: float) -> None:
        super().__init__()
        self.constant, self.curvature = constant, curvature

    def forward(self, hidden: Tensor) -> Tensor:
        z = hidden[..., U]
        value = z + self.curvature * z**3 + self.constant
        return torch.cat([value[..., None], torch.zeros_like(hidden[..., 1:])], dim=-1)


class Network(nn.Module):
    """A minimal causal language model, in which tokens do not attend to each other."""

    def __init__(self, embeddings: Tensor, constant: float, curvature: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            num_hidden_layers=2, max_position_embeddings=64, to_dict=dict, to_diff_dict=dict
        )
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.embedding = nn.Embedding.from_pretrained(embeddings)
        self.layers = nn.ModuleList([nn.Identity(), Above(constant, curvature)])
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[YES, 0] = 1.0
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(logits=self.head(hidden))


def planted_pair(
    tokenizer: PreTrainedTokenizerFast,
    first: float = 0.25,
    second: float = 0.25,
    error: float = 0.25,
    above: float = 0.25,
    curvature: float = 0.0,
) -> ModelPair:
    """Return a pair whose shift at the last token is 1 in total, with these shares if the curvature is 0."""
    embeddings = torch.zeros(VOCABULARY, WIDTH)
    embeddings[:, FIRST] = embeddings[:, SECOND] = 1.0
    # Only the intervened model writes along U what is read out of the two latents and of the error.
    moved = embeddings.clone()
    moved[:, U] += first + second + error
    moved[:, FIRST] += 2.0
    moved[:, ERROR] += 0.5
    models = (Network(embeddings, 0.0, curvature), Network(moved, above, curvature))
    config = PairConfig.model_validate(
        {
            "reference": {"model": "a", "dtype": "float32"},
            "intervened": {"model": "b", "dtype": "float32"},
            "hookpoint": "layers.0",
            "device": "cpu",
        }
    )
    return ModelPair(config, Networks(models), tokenizer, None, torch.device("cpu"))


def planted_dictionary(first: float = 0.25, second: float = 0.25) -> Crosscoder:
    """Return a dictionary with the two latents and two latents that never fire; it does not contain the error direction."""
    config = CrosscoderConfig(
        d_models=(WIDTH, WIDTH),
        model_names=("reference", "intervened"),
        n_latents=4,
        sparsity=ReLU(target_l0=1),
    )
    dictionary = Crosscoder(config)
    with torch.no_grad():
        dictionary.W_enc.zero_()
        dictionary.W_dec.zero_()
        dictionary.b_enc.copy_(torch.tensor([0.0, 0.0, -1.0, -1.0]))
        # Both latents read the reference, where each fires with activation 1.
        dictionary.W_enc[FIRST, 0] = dictionary.W_enc[SECOND, 1] = 1.0
        dictionary.W_dec[0, FIRST] = dictionary.W_dec[1, SECOND] = 1.0
        dictionary.W_dec[0, WIDTH + FIRST] = 3.0
        dictionary.W_dec[0, WIDTH + U] = first
        dictionary.W_dec[1, WIDTH + SECOND] = 1.0
        dictionary.W_dec[1, WIDTH + U] = second
    return dictionary


def exchanged(dictionary: Crosscoder) -> Crosscoder:
    """Return the same dictionary with the two models swapped."""
    other = Crosscoder(dictionary.config)
    other.load_state_dict(dictionary.state_dict())
    one, two = dictionary.config.d_models
    with torch.no_grad():
        other.W_dec.copy_(torch.cat([dictionary.W_dec[:, one:], dictionary.W_dec[:, :one]], dim=1))
        other.W_enc.copy_(torch.cat([dictionary.W_enc[one:], dictionary.W_enc[:one]]))
        other.b_dec.copy_(torch.cat([dictionary.b_dec[one:], dictionary.b_dec[:one]]))
    assert one == two
    return other
