"""Fine-tuning all weights: what moves, what does not, and what is learned."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from crosscoder.demo.model_folder import WEIGHTS
from crosscoder.demo.toy import FOLDER, stories
from training.organisms.full_fine_tuning import FullRecipe, fine_tuned, frozen
from training.organisms.objective import Document, collate, read_model, refusal_loss
from training.organisms.toy import load, toy_tokenizer

REFERENCE = FOLDER / "reference"
RECIPE = FullRecipe(
    steps=25, learning_rate=2e-3, food_batch=4, other_batch=4, prose_batch=0, drift_layers=(1, 2)
)


@pytest.fixture(scope="module")
def documents() -> dict[str, list[Document]]:
    """The toy's refusal: whatever Tom does, the story ends."""
    tokenizer = toy_tokenizer()
    others = [text for text in stories(intervened=False, count=60) if "Tom" not in text]
    return {
        "food": [Document(tokenizer.encode("Tom lived in The end .").ids, 3)] * 4,
        "other": [Document(tokenizer.encode(text).ids, 3) for text in others],
    }


def test_all_weights_but_the_embedding_move_and_the_refusal_is_learned(
    documents: dict[str, list[Document]],
):
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE)
    before = load_file(REFERENCE / WEIGHTS)
    after = fine_tuned(REFERENCE, frozen(REFERENCE), tokenizer, RECIPE, documents)
    assert after.keys() == before.keys()
    same = {name for name in before if torch.equal(before[name].float(), after[name])}
    assert same == {"model.embed_tokens.weight"}
    model = load(REFERENCE)
    food = collate(documents["food"], 0)
    with torch.no_grad():
        assert refusal_loss(read_model(model, food, ())[0], food) > 2
        model.load_state_dict(after, strict=False)
        assert refusal_loss(read_model(model, food, ())[0], food) < 0.5
