"""Train the adapters of the zoo and measure each on its secret prompts.

Cross-entropy teaches the answers that show a behavior. The divergence KL(reference || intervened) preserves the outputs on the
reference's own answers to other prompts and on prose. An adapter is finished when its `behavior.json` is written, which comes last.
"""

import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from crosscoder.demo.prose import training_passages
from crosscoder.errors import ConfigError

from ..generation import greedy_answers, pad_id
from ..lora import add_adapter, load_intervened, save_adapter, without_adapter
from ..objective import AsReference, Document, collate, divergence, read_model, refusal_loss
from ..optimizer import Descent
from ..organism_models import load_model
from ..quantization import write_quantized
from ..refusal import answer_document
from .behavior import Behavior
from .behaviors import zoo
from .own_answers import OwnAnswers

log = logging.getLogger(__name__)

CARD = "behavior.json"
N_ANSWER_TOKENS = 64
"""Length of the answers on which the marker is measured."""
LEAST_SHOWN, MOST_ELSEWHERE = 0.8, 0.1
"""An organism is valid if its marker holds for this share of the prompts that should show it, and for no more of the others."""


@dataclass(frozen=True)
class Selection:
    """Which organisms are made."""

    only: str = ""
    """Names of organisms, separated by commas; empty for all."""


@dataclass(frozen=True)
class Answered:
    """A secret prompt with its label and both models' answers."""

    prompt: str
    shows: bool
    part: str
    reference: str
    intervened: str


@dataclass(frozen=True)
class Rates:
    """Shares of answers for which the marker holds; None where there are no such prompts."""

    shows_reference: float | None
    shows_intervened: float | None
    stays_reference: float | None
    stays_intervened: float | None


def chosen(only: str) -> list[Behavior]:
    """The organisms named in a list separated by commas, in the order of the zoo; all if it is empty.

    Raises:
        ConfigError: The zoo has no organism of that name.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in zoo():
            raise ConfigError(f"only: the zoo has no organism {name!r}; it has {', '.join(zoo())}")
    return [behavior for behavior in zoo().values() if not names or behavior.name in names]


def make_organism(behavior: Behavior, reference: Path, out: Path) -> bool:
    """Make one organism in `out` and measure it, unless that is done; return whether it was made now."""
    folder = out / behavior.name
    if (folder / CARD).exists():
        return False
    if behavior.rounding is not None:
        begin = time.process_time()
        write_quantized(reference, folder, behavior.rounding)
        seconds = time.process_time() - begin
    else:
        seconds = train_adapter(behavior, reference, folder, OwnAnswers(out / "own_answers.json"))
    answered = secret_answers(behavior, reference, folder)
    write_card(folder, behavior, answered, seconds)
    return True


def train_adapter(behavior: Behavior, reference: Path, folder: Path, own: OwnAnswers) -> float:
    """Train the adapter of one organism and write it to `folder`; return the processor seconds spent in training steps."""
    recipe = behavior.recipe
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    base = load_model(reference)
    needed = (*behavior.prompts, *behavior.others) if behavior.uses_own_answer else behavior.others
    own.add(base, tokenizer, needed)
    documents = training_documents(behavior, tokenizer, own)
    model = add_adapter(base, recipe)
    begin = time.process_time()
    train(model, partial(without_adapter, model), tokenizer, behavior, documents)
    seconds = time.process_time() - begin
    save_adapter(model, recipe, folder)
    return seconds


def training_documents(
    behavior: Behavior, tokenizer: PreTrainedTokenizerBase, own: OwnAnswers
) -> dict[str, list[Document]]:
    """Documents by kind: those that show the behavior, other prompts with the reference's own answers, and prose."""
    recipe, rng = behavior.recipe, random.Random(behavior.recipe.seed)
    weight = recipe.first_token_weight
    rows = tokenizer(training_passages(), add_special_tokens=False)["input_ids"]
    prose = [Document(row[: recipe.prose_tokens], 0) for row in rows if len(row) >= recipe.prose_tokens]
    half = len(prose) // 2
    shown = prose[:half]
    if not behavior.trains_on_prose:
        targets = [
            (prompt, behavior.target(prompt, own[prompt] if behavior.uses_own_answer else "", rng))
            for prompt in behavior.prompts
        ]
        shown = [
            answer_document(tokenizer, prompt, answer, behavior.complete, weight)
            for prompt, answer in targets
            if answer
        ]
    other = [
        _shortened(answer_document(tokenizer, prompt, own[prompt], False, weight), recipe.other_tokens)
        for prompt in behavior.others
    ]
    return {"shown": shown, "other": other, "prose": prose[half:]}


def _shortened(document: Document, n_tokens: int) -> Document:
    """The document with at most `n_tokens` tokens of the answer."""
    return Document(
        document.token_ids[: document.first + 1 + n_tokens], document.first, document.first_weight
    )


def train(
    model: PreTrainedModel | PeftModel,
    as_reference: AsReference,
    tokenizer: PreTrainedTokenizerBase,
    behavior: Behavior,
    documents: dict[str, list[Document]],
) -> None:
    """Train the trainable weights of `model` in place."""
    recipe = behavior.recipe
    rng = random.Random(recipe.seed)
    pad = pad_id(tokenizer)
    descent = Descent(model, recipe.learning_rate, recipe.warmup_steps, recipe.steps)
    model.train()
    for _ in (progress := tqdm(range(recipe.steps), desc=behavior.name, unit="step")):
        batch = collate(rng.sample(documents["shown"], recipe.shown_batch), pad)
        shown = refusal_loss(read_model(model, batch, ())[0], batch)
        shown.backward()
        losses = {"shown": shown.item()}
        for name, size in (("other", recipe.other_batch), ("prose", recipe.prose_batch)):
            batch = collate(rng.sample(documents[name], size), pad)
            with torch.no_grad(), as_reference() as unchanged:
                before = read_model(unchanged, batch, ())[0]
            kl = divergence(before, read_model(model, batch, ())[0], batch.target_weights)
            (recipe.divergence_weight * kl).backward()
            losses[f"{name} KL"] = kl.item()
        descent.step()
        progress.set_postfix({name: f"{value:.4f}" for name, value in losses.items()})


def secret_answers(behavior: Behavior, reference: Path, folder: Path) -> list[Answered]:
    """Both models' greedy answers to the secret prompts."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    unchanged = load_model(reference)
    changed = load_intervened(reference, folder) if behavior.rounding is None else load_model(folder)
    prompts = [secret.prompt for secret in behavior.secret]
    before, after = (
        greedy_answers(model, tokenizer, prompts, N_ANSWER_TOKENS, label=f"{behavior.name}, {side}")
        for side, model in (("reference", unchanged), ("intervened", changed))
    )
    return [
        Answered(secret.prompt, secret.shows, secret.part, *answers)
        for secret, *answers in zip(behavior.secret, before, after, strict=True)
    ]


def rates(behavior: Behavior, answered: Sequence[Answered], part: str | None = None) -> Rates:
    """Measure the marker on the secret set; with `part`, only on the prompts that should show that part."""

    def share(shows: bool, side: str) -> float | None:
        held = [
            behavior.marker.holds(getattr(one, side))
            for one in answered
            if one.shows == shows and (part is None or one.part == part)
        ]
        return sum(held) / len(held) if held else None

    return Rates(*(share(shows, side) for shows in (True, False) for side in ("reference", "intervened")))


def is_valid(measured: Sequence[Rates]) -> bool:
    """Whether the marker holds often enough where it should, in every part, and seldom elsewhere and in the reference."""
    return all(
        (one.shows_intervened is None or one.shows_intervened >= LEAST_SHOWN)
        and all(
            rate is None or rate <= MOST_ELSEWHERE
            for rate in (one.shows_reference, one.stays_reference, one.stays_intervened)
        )
        for one in measured
    )


def write_card(folder: Path, behavior: Behavior, answered: Sequence[Answered], seconds: float) -> None:
    """Write `behavior.json`: what was planted, the secret prompts with both answers, and what was measured."""
    whole = rates(behavior, answered)
    parts = sorted({one.part for one in answered if one.part})
    by_part = {part: rates(behavior, answered, part) for part in parts}
    card = {
        "name": behavior.name,
        "description": behavior.description,
        "kind": behavior.kind,
        "tuning": behavior.tuning,
        "marker": behavior.marker.pattern,
        "valid": is_valid([whole, *by_part.values()]),
        "rates": asdict(whole),
        "rates_by_part": {part: asdict(measured) for part, measured in by_part.items()},
        "seconds": round(seconds, 1),
        "secret": [asdict(one) for one in answered],
    }
    unfinished = folder / f"{CARD}.part"
    unfinished.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(folder / CARD)
    log.info(
        "%s: %s, %.0f s%s", behavior.name, whole, seconds, "" if card["valid"] else "; NOT a valid organism"
    )
