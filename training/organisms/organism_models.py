"""Loads the models that organisms are made from and measured on, in the precision in which this machine runs them fastest."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from crosscoder.runtime.device import fastest_dtype


def forward_dtype() -> torch.dtype:
    """Return the precision of the forward passes; weights are stored in bfloat16."""
    return getattr(torch, fastest_dtype(torch.device("cpu")))


def load_model(folder: Path) -> PreTrainedModel:
    """Load a model for evaluation or for an adapter."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=forward_dtype()).eval()
