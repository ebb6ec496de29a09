from pathlib import Path

from crosscoder.language_models.pair import load_pair
from crosscoder.text.documents import tokenize
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training.bench.harvest_speed import harvest_passes


def test_every_pass_reads_the_same_tokens_and_ours_runs_fewer_layers(tmp_path: Path) -> None:
    llama = save_llama(tmp_path / "reference")
    adapter = save_adapter(llama, tmp_path / "adapter", layers_to_transform=[1])
    config = run_config(tmp_path, llama, {"adapter": str(adapter)})
    assert config.pair is not None
    assert config.text is not None
    pair = load_pair(config.pair)
    documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed)
    passes = harvest_passes(pair, documents, 96)
    runs: list[int] = []
    for layer in ("model.layers.0", "model.layers.1"):
        pair.models[0].get_submodule(f"{layer}.mlp").register_forward_hook(
            lambda _, inputs, __: runs.append(inputs[0].shape[:2].numel())
        )
    counts, positions = {}, {}
    for name, run in passes.items():
        runs.clear()
        counts[name] = run()
        positions[name] = sum(runs)
    assert set(counts) == {"bare", "extract", "harvest"}
    assert set(counts.values()) == {int(documents.unmasked[~documents.held_out].sum())}
    assert positions["extract"] == positions["harvest"] <= 0.75 * positions["bare"]
