"""Expressions for names of modules, in files that are not trusted, take no endless time."""

import json
from pathlib import Path
from typing import Any

import pytest

from crosscoder.config import PairConfig
from crosscoder.errors import DataError
from crosscoder.language_models.pair import load_pair
from crosscoder.runtime import expressions
from tests.tiny_pairs import save_adapter, save_llama

ENDLESS = r"([a-z._0-9]+)+!"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "LIMIT", 0.3)


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"rank_pattern": {ENDLESS: 4}},
        {"layers_to_transform": [1], "layers_pattern": ENDLESS},
    ],
    ids=str,
)
def test_of_an_adapter(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    config = {
        "reference": {"model": str(base)},
        "intervened": {"adapter": str(adapter)},
        "hookpoint": "model.layers.1",
        "device": "cpu",
    }
    load_pair(PairConfig.model_validate(config))
    change(adapter / "adapter_config.json", **settings)
    with pytest.raises(
        DataError, match=r"^pair.intervened.adapter: .* for modules: .*takes more than 0.3 s on the text '"
    ):
        load_pair(PairConfig.model_validate(config))


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": [ENDLESS]},
        {"quant_method": "gptq", "bits": 4, "dynamic": {f"re:{ENDLESS}": {}}},
    ],
    ids=str,
)
def test_of_a_quantized_checkpoint(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = save_llama(tmp_path / "base")
    change(base / "config.json", quantization_config=settings)
    side = {"model": str(base)}
    config = {"reference": side, "intervened": side, "hookpoint": "model.layers.1", "device": "cpu"}
    with pytest.raises(
        DataError, match=r"^pair.reference.model: .* for modules: .*takes more than 0.3 s on the text '"
    ):
        load_pair(PairConfig.model_validate(config))
