"""Dictionaries in the formats of other tools, with what these tools compute from them.

Most were written by the tools' own classes (`tests/peer_dictionaries.py`); those of tools that cannot be installed are made here
from the definition of their format.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FIXTURES = Path(__file__).parent / "crosscoder" / "dictionary" / "dialects" / "fixtures"
PAIR: dict[str, Any] = {"models": ("reference", "intervened")}
POOLED: dict[str, Any] = {"reads": "pooled"}
DIFFERENCE: dict[str, Any] = {"reads": "difference", "direction": "intervened-reference"}


@dataclass(frozen=True)
class Expected:
    """What a tool computes: codes and reconstructions of raw activations in the file's order of models."""

    activations: Tensor
    codes: Tensor
    reconstruction: Tensor


@dataclass(frozen=True)
class Case:
    """One foreign dictionary, and the answers to what its files leave open."""

    dialect: str
    answers: dict[str, Any] = field(default_factory=dict)
    made: Callable[[Path], Expected] | None = None
    """Writes the files; None: they are a fixture of a tool's own class."""
    fixture: str = ""
    calibrate: bool = False
    """The tool selects anew in each batch, so the threshold is calibrated on that batch."""

    def write(self, folder: Path) -> tuple[Path, Expected]:
        """Return where the files are, and what the tool computes."""
        if self.made is not None:
            return folder, self.made(folder)
        return FIXTURES / self.fixture, Expected(**load_file(FIXTURES / self.fixture / "expected.st"))


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 + seed + sum(shape)))


def _activations(n_models: int) -> Tensor:
    values = _numbers(32, n_models, 6)
    return torch.stack([10.0**m * (values[:, m] + 1 + m) for m in range(n_models)], dim=1)


def _crosscoder_tensors() -> dict[str, Tensor]:
    decoder = 0.3 * _numbers(20, 2, 6, seed=1)
    return {
        "W_enc": 0.4 * _numbers(2, 6, 20),
        "W_dec": decoder * _numbers(20, 2, 1, seed=2).exp(),
        "b_enc": 0.2 * _numbers(20),
        "b_dec": 0.2 * _numbers(2, 6),
    }


def _save_pt(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)  # noqa: TID251


def ckkissane(folder: Path) -> Expected:
    """ReLU of activations times one factor per model."""
    tensors, values = _crosscoder_tensors(), _activations(2)
    _save_pt(folder / "cc_weights.pt", tensors)
    settings = {
        "d_in": 6,
        "dict_size": 20,
        "l1_coeff": 2,
        "hook_point": "blocks.14.hook_resid_pre",
        "seed": 49,
    }
    (folder / "cfg.json").write_text(json.dumps(settings))
    factors = torch.tensor([0.5, 0.05])[:, None]
    codes = (torch.einsum("tmd,mdf->tf", values * factors, tensors["W_enc"]) + tensors["b_enc"]).relu()
    rebuilt = torch.einsum("tf,fmd->tmd", codes, tensors["W_dec"]) + tensors["b_dec"]
    return Expected(values, codes, rebuilt / factors)


def numbered(folder: Path) -> Expected:
    """The same as N.pt and N_cfg.json, as a local training writes it."""
    expected = ckkissane(folder)
    (folder / "cc_weights.pt").rename(folder / "3.pt")
    (folder / "cfg.json").rename(folder / "3_cfg.json")
    return expected


def standardized(folder: Path) -> Expected:
    """TopK of standardized activations; the decoder of exclusive latents is masked, their encoder is not."""
    tensors, values = _crosscoder_tensors(), _activations(2)
    mask = torch.ones(20, 2)
    mask[:3, 1] = 0
    mask[3:5, 0] = 0
    _save_pt(folder / "model.pt", tensors | {"enc_mask": mask.T.clone(), "dec_mask": mask})
    (folder / "config.json").write_text(
        json.dumps({"activation_dim": 6, "dict_size": 20, "k": 4, "n_a": 3, "n_b": 2})
    )
    mean, std = values.mean(dim=0), values.std(dim=0)
    save_file({"mean": mean, "std": std}, folder.parent / "statistics.safetensors")
    pre = (torch.einsum("tmd,mdf->tf", (values - mean) / std, tensors["W_enc"]) + tensors["b_enc"]).relu()
    largest = pre.topk(4, dim=1)
    codes = torch.zeros_like(pre).scatter(1, largest.indices, largest.values)
    rebuilt = torch.einsum("tf,fmd->tmd", codes, tensors["W_dec"] * mask[:, :, None]) + tensors["b_dec"]
    return Expected(values, codes, rebuilt * std + mean)


def gemma_scope(folder: Path) -> Expected:
    """JumpReLU as params.npz."""
    tensors, expected = _jumprelu()
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez(folder / "params.npz", **arrays)
    return expected


def gemma_scope_2(folder: Path) -> Expected:
    """The same in lower case, as safetensors."""
    tensors, expected = _jumprelu()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name.lower(): tensor.contiguous() for name, tensor in tensors.items()}, folder / "params.safetensors"
    )
    hookpoint = "model.layers.7.output"
    settings = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-it", "hf_hook_point_in": hookpoint}
    (folder / "config.json").write_text(json.dumps(settings | {"hf_hook_point_out": hookpoint}))
    return expected


def saelens(folder: Path, architecture: str, **settings: Any) -> Expected:
    """An SAE of SAELens 6: the decoder bias may be subtracted from the input, TopK may weight latents by their decoder norms, and the
    model may be one whose activations are centered."""
    tensors, expected = _jumprelu()
    values, scale = expected.activations, 0.05 if "normalize_activations" in settings else 1.0
    subtracted = tensors["b_dec"] * settings.get("apply_b_dec_to_input", False)
    centered = "model_from_pretrained_kwargs" in settings
    read = values - values.mean(dim=1, keepdim=True) if centered else values
    pre = (read * scale - subtracted) @ tensors["W_enc"] + tensors["b_enc"]
    threshold, codes = tensors.pop("threshold") / 4, pre.relu()
    norms = torch.ones(20)
    if architecture == "jumprelu":
        tensors["threshold"] = threshold
        codes = codes * (pre > threshold)
    elif architecture == "topk":
        if settings.get("rescale_acts_by_decoder_norm"):
            norms = tensors["W_dec"].norm(dim=1)
        largest = (pre * norms).topk(settings["k"], dim=1)
        codes = torch.zeros_like(pre).scatter(1, largest.indices, largest.values.relu())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors"
    )
    whole = {"architecture": architecture, "d_in": 6, "d_sae": 20, "apply_b_dec_to_input": False}
    whole |= {
        "normalize_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "gpt2"},
    }
    (folder / "cfg.json").write_text(json.dumps(whole | settings))
    return Expected(values, codes, ((codes / norms) @ tensors["W_dec"] + tensors["b_dec"]) / scale)


def _jumprelu() -> tuple[dict[str, Tensor], Expected]:
    whole, values = _crosscoder_tensors(), _activations(2)[:, 1]
    tensors = {
        "W_enc": whole["W_enc"][0],
        "W_dec": whole["W_dec"][:, 1].contiguous(),
        "b_enc": whole["b_enc"],
    }
    # Some thresholds are below zero, where a latent still has to be positive.
    tensors |= {"b_dec": whole["b_dec"][0], "threshold": 4 * _numbers(20, seed=5)}
    pre = values @ tensors["W_enc"] + tensors["b_enc"]
    codes = pre.relu() * (pre > tensors["threshold"])
    return tensors, Expected(values, codes, codes @ tensors["W_dec"] + tensors["b_dec"])


_LATER: dict[str, Any] = {"uncalibrated": True}

CENTERING = {"center_writing_weights": True}
CASES: dict[str, Case] = {
    "crosscoder_learning, CrossCoder": Case("crosscoder_learning", PAIR, fixture="crosscoder_learning/relu"),
    "crosscoder_learning, CrossCoder compiled": Case(
        "crosscoder_learning", PAIR, fixture="crosscoder_learning/compiled"
    ),
    **{
        f"crosscoder_learning, BatchTopKCrossCoder {mode}": Case(
            "crosscoder_learning", PAIR, fixture=f"crosscoder_learning/{mode.lower()}"
        )
        for mode in ("CROSSCODER", "SAE", "MIXED", "NONE")
    },
    "crosscoder_learning, one scale per dimension": Case(
        "crosscoder_learning", PAIR, fixture="crosscoder_learning/coordinates"
    ),
    "crosscoder_learning, BatchTopKSAE": Case(
        "crosscoder_learning", DIFFERENCE, fixture="crosscoder_learning/diff_sae"
    ),
    "ckkissane": Case("ckkissane", PAIR | {"normalization": "0.5,0.05"}, ckkissane),
    "ckkissane, numbered": Case("ckkissane", PAIR | {"normalization": "0.5,0.05"}, numbered),
    "SAELens, standard": Case(
        "saelens", POOLED, partial(saelens, architecture="standard", apply_b_dec_to_input=True)
    ),
    "SAELens, jumprelu": Case("saelens", POOLED, partial(saelens, architecture="jumprelu")),
    "SAELens, topk": Case("saelens", POOLED, partial(saelens, architecture="topk", k=4)),
    "SAELens, topk by decoder norms": Case(
        "saelens", POOLED, partial(saelens, architecture="topk", k=4, rescale_acts_by_decoder_norm=True)
    ),
    "SAELens, scaled": Case(
        "saelens",
        POOLED | {"normalization": "0.05"},
        partial(saelens, architecture="standard", normalize_activations="expected_average_only_in"),
    ),
    "SAELens, centered": Case(
        "saelens",
        POOLED | {"normalization": "centered"},
        partial(
            saelens,
            architecture="jumprelu",
            apply_b_dec_to_input=True,
            model_from_pretrained_kwargs=CENTERING,
        ),
    ),
    "SAELens, centered topk": Case(
        "saelens",
        POOLED | {"normalization": "centered"},
        partial(
            saelens,
            architecture="topk",
            k=4,
            rescale_acts_by_decoder_norm=True,
            model_from_pretrained_kwargs=CENTERING,
        ),
    ),
    "sparsify, topk": Case("sparsify", POOLED, fixture="sparsify/topk"),
    **{
        f"dictionary_learning, {name}": Case(
            "dictionary_learning", POOLED, fixture=f"dictionary_learning/{name}"
        )
        for name in ("auto_encoder", "auto_encoder_new", "topk", "batch_topk", "matryoshka", "jumprelu")
    },
    "Gemma Scope 1": Case("gemma_scope", POOLED, gemma_scope),
    "Gemma Scope 2": Case("gemma_scope", POOLED, gemma_scope_2),
    **{
        f"Llamascopium, {name}": Case(
            "llamascopium", answers, fixture=f"llamascopium/{name}", calibrate="batch" in name
        )
        for name, answers in {
            "relu": PAIR,
            "jumprelu_equal": PAIR,
            "topk_equal": PAIR,
            "batchtopk_equal": PAIR | _LATER,
            "sae_jumprelu": POOLED,
            "sae_topk": POOLED,
        }.items()
    },
    "DFC, dfc_learning": Case("dedicated_features", PAIR, fixture="dfc/dfc_learning"),
    "DFC, standardized": Case(
        "dedicated_features", PAIR | {"normalization": "../statistics.safetensors"}, standardized
    ),
    **{
        f"crosscode, {name}": Case(
            "crosscode", answers, fixture=f"crosscode/{name}", calibrate=name == "batchtopk"
        )
        for name, answers in {
            "relu": PAIR,
            "unfolded": PAIR | {"normalization": "0.5,0.05"},
            "jumprelu": PAIR,
            "batchtopk": PAIR | _LATER,
        }.items()
    },
}
"""Every dictionary that is read exactly."""


@dataclass(frozen=True)
class Refusal:
    """A foreign dictionary that ours cannot represent, and the reason that the message gives."""

    why: str
    answers: dict[str, Any]
    made: Callable[[Path], object] | None = None
    fixture: str = ""

    def write(self, folder: Path) -> Path:
        """Return where the files are."""
        if self.made is None:
            return FIXTURES / self.fixture
        self.made(folder)
        return folder


def _tied(folder: Path) -> None:
    state = {"W_enc": torch.zeros(2, 4, 3, 8), "b_enc": torch.zeros(3, 8), "W_dec": torch.zeros(8, 2, 4)}
    _save_pt(folder / "model.pt", state)


def _weakly_causal(folder: Path) -> None:
    for layer in range(2):
        save_file({"w_enc": torch.zeros(4, 8)}, folder / f"params_layer_{layer}.safetensors")


def _skipping(folder: Path) -> None:
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold", "affine_skip_connection")
    save_file({name: torch.zeros(4, 4) for name in names}, folder / "params.safetensors")


def _by_the_token(folder: Path, how: str) -> None:
    for path in (FIXTURES / "llamascopium" / "relu").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"norm_activation": how}))


_OTHER = "predicts other activations than it reads"

REFUSED: dict[str, Refusal] = {
    "crosscoder_learning, DECOUPLED": Refusal("its own code", PAIR, fixture="crosscoder_learning/decoupled"),
    "sparsify, groupmax": Refusal("one latent of each group", POOLED, fixture="sparsify/groupmax"),
    "sparsify, transcoder": Refusal(_OTHER, POOLED, fixture="sparsify/transcoder"),
    "dictionary_learning, GatedAutoEncoder": Refusal(
        "decides by one encoder what fires", POOLED, fixture="dictionary_learning/gated"
    ),
    "Llamascopium, jumprelu with unequal norms": Refusal(
        "the models disagree on which latents fire", PAIR, fixture="llamascopium/jumprelu_unequal"
    ),
    "Llamascopium, topk with unequal norms": Refusal(
        "the models disagree on which latents fire", PAIR, fixture="llamascopium/topk_unequal"
    ),
    **{
        f"Llamascopium, {how}": Refusal("a norm of the input itself", PAIR, partial(_by_the_token, how=how))
        for how in ("token-wise", "batch-wise")
    },
    **{
        f"SAELens, {how}": Refusal(
            why, POOLED, partial(saelens, architecture="standard", normalize_activations=how)
        )
        for how, why in {
            "layer_norm": "each token by its own mean and deviation",
            "constant_norm_rescale": "each token by its own norm",
            "covariance_whitening": "a matrix that is not in the file",
        }.items()
    },
    **{
        f"SAELens, {kind}": Refusal(why, POOLED, partial(saelens, architecture=kind))
        for kind, why in {
            "abstopk": "keeps negative latents",
            "gated": "decides by one encoder what fires",
            "temporal": "reads each token alone",
            "matching_pursuit": "finds one latent after another",
            "jumprelu_skip_transcoder": _OTHER,
        }.items()
    },
    "crosscode, TopkActivation": Refusal("keeps negative latents", PAIR, fixture="crosscode/topk"),
    "crosscode, several hookpoints": Refusal(
        "one hookpoint of each", PAIR, fixture="crosscode/two_hookpoints"
    ),
    "Gemma Scope 2, transcoder": Refusal(_OTHER, POOLED, _skipping),
    "Gemma Scope 2, crosscoder": Refusal("several layers of one model", PAIR, _weakly_causal),
    "tied crosscoder": Refusal("three codes", PAIR, _tied),
}
"""Every dictionary that is refused."""
