"""Dictionaries written by other tools' own classes, with the codes and reconstructions that these classes compute.

`python -m tests.peer_dictionaries PEER FOLDER` writes the fixtures of one tool, in an environment that has it: `sparsify`,
`llamascopium` (packages eai-sparsify and llamascopium), or `crosscoder_learning`, `dictionary_learning`, `dfc`, `crosscode` (a clone
of the repository on PYTHONPATH). The tests read what was written and need none of them.

Decoder norms differ between latents and models, means and scales between models.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D_MODEL, N_LATENTS, K, N_TOKENS = 5, 14, 3, 24


def activations(n_models: int) -> Tensor:
    """[token, model, d_model], with means and scales that differ between models."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(N_TOKENS, n_models, D_MODEL, generator=generator)
    return torch.stack([10.0**m * (values[:, m] + 1 + m) for m in range(n_models)], dim=1)


def shake(module: torch.nn.Module, *decoders: str) -> None:
    """Add noise to every parameter, and give each latent of the named decoders (latents first) another norm."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "threshold" not in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            if name in decoders:
                size = parameter.shape[0]
                parameter.mul_(
                    torch.randn(size, generator=generator).exp().view(size, *[1] * (parameter.ndim - 1))
                )


def keep(folder: Path, values: Tensor, codes: Tensor, rebuilt: Tensor) -> None:
    """Write what the peer's class computes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"activations": values, "codes": codes, "reconstruction": rebuilt}
    save_file(
        {name: tensor.detach().float().contiguous() for name, tensor in found.items()}, folder / "expected.st"
    )
    assert 0 < float((codes > 0).float().mean()) < 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)  # noqa: TID251


def crosscoder_learning(out: Path) -> None:
    peer = import_module("dictionary_learning.dictionary")
    values = activations(2)
    statistics = {
        "activation_mean": values.mean(dim=0),
        "activation_std": values.std(dim=0),
        "target_rms": 2.0,
    }

    def scaled(dictionary: Any) -> Any:
        shake(dictionary)
        with torch.no_grad():
            factors = torch.randn(2, N_LATENTS, 1, generator=torch.Generator().manual_seed(3)).exp()
            dictionary.decoder.weight.mul_(factors)
        return dictionary

    relu = scaled(peer.CrossCoder(D_MODEL, N_LATENTS, 2, **statistics))
    relu.save_pretrained(out / "relu")
    keep(out / "relu", values, relu.encode(values), relu(values))
    compiled = scaled(peer.CrossCoder(D_MODEL, N_LATENTS, 2))
    save_state(
        out / "compiled" / "ae.pt",
        {f"_orig_mod.{key}": value for key, value in compiled.state_dict().items()},
    )
    keep(out / "compiled", values, compiled.encode(values), compiled(values))
    for mode in ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED"):
        dictionary = scaled(
            peer.BatchTopKCrossCoder(D_MODEL, N_LATENTS, 2, k=K, code_normalization=mode, **statistics)
        )
        dictionary.threshold.fill_(0.8)
        if mode in ("SAE", "DECOUPLED"):
            save_state(out / mode.lower() / "model_final.pt", dictionary.state_dict())
        else:
            dictionary.save_pretrained(out / mode.lower())
        keep(out / mode.lower(), values, dictionary.encode(values), dictionary(values))
    coordinates = scaled(peer.BatchTopKCrossCoder(D_MODEL, N_LATENTS, 2, k=K, **statistics))
    coordinates.keep_relative_variance = False
    coordinates.activation_global_scale.fill_(1)
    coordinates.threshold.fill_(1.5)
    save_state(out / "coordinates" / "model_final.pt", coordinates.state_dict())
    keep(out / "coordinates", values, coordinates.encode(values), coordinates(values))
    difference = values[:, 1] - values[:, 0]
    statistics = {"activation_mean": difference.mean(dim=0), "activation_std": difference.std(dim=0)}
    sae = peer.BatchTopKSAE(D_MODEL, N_LATENTS, K, **statistics)
    shake(sae)
    sae.threshold.fill_(0.3)
    sae.save_pretrained(out / "diff_sae")
    keep(out / "diff_sae", difference, sae.encode(difference), sae(difference))


def dictionary_learning(out: Path) -> None:
    peer = import_module("dictionary_learning.dictionary")
    top_k, batch_top_k, matryoshka = (
        import_module(f"dictionary_learning.trainers.{name}")
        for name in ("top_k", "batch_top_k", "matryoshka_batch_top_k")
    )
    values = activations(2)[:, 1]
    topk = top_k.AutoEncoderTopK(D_MODEL, N_LATENTS, K)
    batch = batch_top_k.BatchTopKSAE(D_MODEL, N_LATENTS, K)
    nested = matryoshka.MatryoshkaBatchTopKSAE(D_MODEL, N_LATENTS, K, [4, N_LATENTS - 4])
    dictionaries = {
        "auto_encoder": peer.AutoEncoder(D_MODEL, N_LATENTS),
        "auto_encoder_new": peer.AutoEncoderNew(D_MODEL, N_LATENTS),
        "topk": topk,
        "batch_topk": batch,
        "matryoshka": nested,
        "jumprelu": peer.JumpReluAutoEncoder(D_MODEL, N_LATENTS),
        "gated": peer.GatedAutoEncoder(D_MODEL, N_LATENTS),
    }
    for name, dictionary in dictionaries.items():
        shake(dictionary, "W_dec")
        if name in ("batch_topk", "matryoshka", "jumprelu"):
            dictionary.threshold.data.fill_(6.0)
        save_state(out / name / "ae.pt", dictionary.state_dict())
        if name in ("topk", "batch_topk"):
            settings = {"trainer": {"dict_class": type(dictionary).__name__}}
            (out / name / "config.json").write_text(json.dumps(settings))
        codes = dictionary.encode(values)
        keep(out / name, values, codes, dictionary.decode(codes))


def sparsify(out: Path) -> None:
    peer, settings = import_module("sparsify"), import_module("sparsify.config")
    values = activations(2)[:, 1]
    kinds = {
        "topk": {},
        "groupmax": {"activation": "groupmax", "num_latents": 15},
        "transcoder": {"transcode": True},
    }
    for name, options in kinds.items():
        config = settings.SparseCoderConfig(**{"num_latents": N_LATENTS, "k": K} | options)
        coder = peer.SparseCoder(D_MODEL, config)
        shake(coder, "W_dec")
        coder.save_to_disk(out / name)
        top, indices, _ = coder.encode(values)
        codes = torch.zeros(N_TOKENS, coder.num_latents).scatter(1, indices, top)
        keep(out / name, values, codes, codes @ coder.W_dec + coder.b_dec)


def llamascopium(out: Path) -> None:
    crosscoders = import_module("llamascopium.models.crosscoder")
    saes = import_module("llamascopium.models.sae")
    shared = {
        "d_model": D_MODEL,
        "expansion_factor": N_LATENTS / D_MODEL,
        "device": "cpu",
        "dtype": torch.float32,
    }
    hookpoints = ["base.L1", "tuned.L1"]
    cases = {
        "relu": ("relu", False),
        "jumprelu_equal": ("jumprelu", True),
        "topk_equal": ("topk", True),
        "batchtopk_equal": ("batchtopk", True),
        "jumprelu_unequal": ("jumprelu", False),
        "topk_unequal": ("topk", False),
    }
    norms = {"base.L1": 5.0, "tuned.L1": 40.0}
    for name, (kind, equal) in cases.items():
        config = crosscoders.CrosscoderConfig(hook_points=hookpoints, act_fn=kind, top_k=K, **shared)
        coder = crosscoders.Crosscoder(config)
        _fill(coder, norms)
        if equal:
            with torch.no_grad():
                coder.W_D.copy_(
                    coder.W_D / coder.W_D.norm(dim=2, keepdim=True) * coder.W_D[:1].norm(dim=2, keepdim=True)
                )
        values = activations(2)
        factors = torch.tensor([D_MODEL**0.5 / norms[place] for place in hookpoints])[:, None]
        codes = coder.encode(values * factors)
        _save_llamascopium(coder, config, out / name)
        keep(out / name, values, codes[:, 0], coder.decode(codes) / factors)
    for kind in ("jumprelu", "topk"):
        config = saes.SAEConfig(
            hook_point_in="base.L1", hook_point_out="base.L1", act_fn=kind, top_k=K, **shared
        )
        coder = saes.SparseAutoEncoder(config)
        _fill(coder, {"base.L1": 30.0})
        values, factor = activations(2)[:, 1], D_MODEL**0.5 / 30.0
        codes = coder.encode(values * factor)
        _save_llamascopium(coder, config, out / f"sae_{kind}")
        keep(out / f"sae_{kind}", values, codes, coder.decode(codes) / factor)


def _fill(coder: Any, norms: dict[str, float]) -> None:
    for parameter in coder.parameters():
        parameter.data.zero_()
    shake(coder)
    with torch.no_grad():
        size = coder.W_D.shape[:-1]
        coder.W_D.mul_(torch.randn(*size, 1, generator=torch.Generator().manual_seed(3)).exp())
        coder.W_E.mul_(3)
    if hasattr(coder.activation_function, "log_jumprelu_threshold"):
        coder.activation_function.log_jumprelu_threshold.data.fill_(-1.5)
    coder.set_dataset_average_activation_norm(norms)


def _save_llamascopium(coder: Any, config: Any, folder: Path) -> None:
    coder.save_pretrained(folder)
    config.save_hyperparameters(folder)


def dfc(out: Path) -> None:
    peer = import_module("dictionary_learning.dictionary")
    values = activations(2)
    dictionary = peer.DedicatedFeatureBatchTopKCrossCoder(
        activation_dim=D_MODEL,
        dict_size=N_LATENTS,
        num_layers=2,
        k=K,
        model_a_exclusive_pct=0.2,
        model_b_exclusive_pct=0.15,
        activation_mean=values.mean(dim=0),
        activation_std=values.std(dim=0),
    )
    with torch.no_grad():
        factors = torch.randn(2, N_LATENTS, 1, generator=torch.Generator().manual_seed(3)).exp()
        dictionary.decoder.weight.mul_(factors)
    dictionary.threshold.fill_(0.3)
    save_state(out / "dfc_learning" / "model_final.pt", dict(dictionary.state_dict()))
    keep(out / "dfc_learning", values, dictionary.encode(values), dictionary(values))


def crosscode(out: Path) -> None:
    models = import_module("crosscode.models.acausal_crosscoder")
    kinds = import_module("crosscode.models.activations")
    values = activations(2)[:, :, None]
    cases = {
        "relu": (kinds.ReLUActivation(), 1, True),
        "unfolded": (kinds.ReLUActivation(), 1, False),
        "jumprelu": (kinds.AnthropicSTEJumpReLUActivation(N_LATENTS, 0.1, -0.5), 1, True),
        "topk": (kinds.TopkActivation(K), 1, True),
        "batchtopk": (kinds.BatchTopkActivation(K), 1, True),
        "two_hookpoints": (kinds.ReLUActivation(), 2, True),
    }
    for name, (function, n_hookpoints, folded) in cases.items():
        coder = models.ModelHookpointAcausalCrosscoder(2, n_hookpoints, D_MODEL, N_LATENTS, function)
        for parameter in coder.parameters():
            if parameter.ndim > 1 or name != "jumprelu":
                parameter.data.zero_()
        shake(coder, "_W_dec_LXoDo")
        inputs, scales = values.expand(-1, -1, n_hookpoints, -1), torch.tensor([[0.5], [0.05]])
        scales = scales.expand(2, n_hookpoints)
        if folded:
            coder.fold_activation_scaling_into_weights_(scales)
        coder.save(out / name)
        read = inputs if folded else inputs * scales[..., None]
        result = coder.forward_train(read)
        rebuilt = result.recon_acts_BMPD if folded else result.recon_acts_BMPD / scales[..., None]
        keep(out / name, inputs[:, :, 0], result.latents_BL, rebuilt[:, :, 0])


PEERS: dict[str, Callable[[Path], None]] = {
    "crosscoder_learning": crosscoder_learning,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "llamascopium": llamascopium,
    "dfc": dfc,
    "crosscode": crosscode,
}


if __name__ == "__main__":
    torch.manual_seed(0)
    PEERS[sys.argv[1]](Path(sys.argv[2]) / sys.argv[1])
