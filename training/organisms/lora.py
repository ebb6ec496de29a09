"""LoRA adapters that ship with the project: add one to a model, save it in PEFT's format, and load it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from crosscoder.demo.smollm2 import NAME

from .organism_models import load_model


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Location and size of a LoRA adapter."""

    first_layer: int = 10
    last_layer: int = 20
    rank: int = 4
    target_modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")

    @property
    def layers(self) -> list[int]:
        """Indices of the adapted layers."""
        return list(range(self.first_layer, self.last_layer + 1))


def add_adapter(base: PreTrainedModel, size: LowRank) -> PeftModel:
    """Add a newly initialized adapter, which changes nothing yet: in float32, on frozen base weights."""
    settings = LoraConfig(
        r=size.rank,
        lora_alpha=2 * size.rank,
        target_modules=list(size.target_modules),
        layers_to_transform=size.layers,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, settings)
    assert isinstance(model, PeftModel)
    return model


@contextmanager
def without_adapter(model: PeftModel) -> Iterator[PeftModel]:
    """Disable the adapter within the block, so that the model computes as the reference does."""
    with model.disable_adapter():
        yield model


def save_adapter(model: PeftModel, size: LowRank, folder: Path) -> None:
    """Write PEFT's two files, with weights in bfloat16 and the name of the base model instead of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: tensor.to(torch.bfloat16).contiguous()
        for key, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    # Only the settings that every release of PEFT knows: other releases refuse unknown ones.
    written = {
        "base_model_name_or_path": NAME,
        "bias": "none",
        "inference_mode": True,
        "layers_to_transform": size.layers,
        "lora_alpha": 2 * size.rank,
        "peft_type": "LORA",
        "r": size.rank,
        "target_modules": sorted(size.target_modules),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def load_intervened(reference: Path, adapter: Path) -> PeftModel:
    """Load the model in `reference` with the adapter, unmerged: merging would round it to bfloat16."""
    base = load_model(reference)
    return PeftModel.from_pretrained(base, adapter).eval()
