"""Batched generation of answers with a small chat model."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def chat_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Render the chat up to the beginning of the model's answer."""
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 40,
    label: str = "answers",
) -> list[str]:
    """Generate one greedy answer per question, up to `max_new_tokens` or to the end of the turn."""
    model.eval()
    # Questions of similar length share a batch, to reduce padding.
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
    answers = [""] * len(questions)
    for start in tqdm(range(0, len(order), batch_size), desc=label, unit="batch"):
        batch = order[start : start + batch_size]
        prompts = [chat_prompt(tokenizer, questions[index]) for index in batch]
        token_ids, mask = padded_prompts(tokenizer, prompts)
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=token_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad_id(tokenizer),
        )
        for index, row in zip(batch, output[:, token_ids.shape[1] :], strict=True):
            answers[index] = str(tokenizer.decode(row, skip_special_tokens=True)).strip()
    return answers


def padded_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> tuple[Int[Tensor, "prompt position"], Int[Tensor, "prompt position"]]:
    """Token ids, padded on the left so that all answers begin at the same position, and the attention mask."""
    tokenizer.padding_side = "left"
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
    return inputs["input_ids"], inputs["attention_mask"]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token id of the padding token.

    Raises:
        TypeError: The tokenizer has none.
    """
    token_id = tokenizer.pad_token_id
    if not isinstance(token_id, int):
        raise TypeError(f"the tokenizer has no padding token (pad_token_id is {token_id!r})")
    return token_id


def whole_sentences(answer: str) -> str:
    """The answer up to its last end of a sentence; all of it if it has none."""
    end = max(answer.rfind(mark) for mark in ".!?")
    return answer[: end + 1] if end > 0 else answer
