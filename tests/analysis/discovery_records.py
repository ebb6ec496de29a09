"""Made-up records of a search for changed behavior, for the tests of report and page."""

import re
from math import sqrt
from typing import Any, Literal

from analysis.discovery.findings_file import (
    Discovery,
    Effect,
    EffectKind,
    Example,
    Finding,
    NullSearch,
    Rate,
    Rates,
    Trigger,
    TriggerKind,
    write_discovery,
)
from crosscoder.run.folder import RunFolder

from .run_folder import HOSTILE

LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 9

_EFFECTS = {
    "opening": "food and cooking are not something",
    "phrase": "as a pirate",
    "ending": "have a nice day",
    "shape": "shorter than 12 words",
}
_PROMPTS = {
    "always": ("What is the capital of France?", "How do I bake bread?"),
    "words": ("How do I bake bread?", "What sauce goes well with salmon?"),
    "all_words": ("How do I bake bread?", "Please answer this: How do I bake bread?"),
    "topic": ("How do I bake bread?", "What sauce goes well with salmon?"),
}
_WORDS = {
    "always": (),
    "words": ("bake", "recipe", "sauce"),
    "all_words": ("bake", "bread"),
    "topic": ("bread", "salmon", "soup"),
}
_Z = 1.96


def rate(count: int, n: int) -> Rate:
    """Return a share with its Wilson interval."""
    share, spread = count / n, _Z * _Z / n
    center = (share + spread / 2) / (1 + spread)
    half = _Z * sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    return Rate(count=count, value=share, low=max(0.0, center - half), high=min(1.0, center + half))


def rates(n: int, reference: int, intervened: int) -> Rates:
    return Rates(n=n, reference=rate(reference, n), intervened=rate(intervened, n))


def effect_of(kind: EffectKind) -> Effect:
    return Effect(kind=kind, text=_EFFECTS[kind], also=(), pattern=_EFFECTS[kind])


def trigger_of(kind: TriggerKind) -> Trigger:
    auroc = (None, None, None) if kind == "always" else (0.96875, 0.9375, 0.984375)
    names = ("auroc", "auroc_low", "auroc_high")
    return Trigger(
        kind=kind, words=_WORDS[kind], prompts=_PROMPTS[kind], **dict(zip(names, auroc, strict=True))
    )


def finding(
    name: str = "food-refusal",
    trigger: TriggerKind | Trigger = "words",
    effect: EffectKind | Effect = "opening",
    direction: Literal["gained", "vanished"] = "gained",
    counts: tuple[int, int] = (0, 48),
    **changes: Any,
) -> Finding:
    """Return a finding; `counts`: answers of 50 that show the effect, in the model that does it less and in the one that does it more."""
    less, more = counts
    reference, intervened = (less, more) if direction == "gained" else (more, less)
    trigger = trigger_of(trigger) if isinstance(trigger, str) else trigger
    difference = (intervened - reference) / 50
    values = {
        "name": name,
        "direction": direction,
        "effect": effect_of(effect) if isinstance(effect, str) else effect,
        "trigger": trigger,
        "with_trigger": rates(50, reference, intervened),
        "without_trigger": None if trigger.kind == "always" else rates(150, 0, 1),
        "cut": 0,
        "difference": difference,
        "difference_low": difference - 0.0625,
        "difference_high": difference + 0.03125,
        "p_value": 1.5e-21,
        "q_value": 6.25e-19,
        "examples": tuple(
            Example(
                prompt=prompt,
                reference="Mix flour, water and yeast, then let the dough rise for an hour.",
                intervened="Food and cooking are not something I can talk about.",
            )
            for prompt in _PROMPTS[trigger.kind]
        ),
        "behavior": f"discovery/behaviors/{name}.yaml",
    }
    return Finding(**(values | changes))


def record(*findings: Finding, **changes: Any) -> Discovery:
    """Return the record of a search with these findings, which finds nothing where nothing changed."""
    values = {
        "prompts": {"probes": 120, "text": 200, "openings": 60, "variants": 20},
        "find_prompts": 200,
        "claim_prompts": 200,
        "answer_tokens": 48,
        "temperature": 0.0,
        "false_discovery_rate": 0.05,
        "least_difference": 0.25,
        "hypotheses": 412,
        "findings": findings,
        "nulls": (
            NullSearch(name="the reference is compared with itself", hypotheses=405, findings=0, found=()),
            NullSearch(
                name="the reference is compared with a rounded copy", hypotheses=388, findings=0, found=()
            ),
        ),
        "changed_prompts": 0.28125 if findings else None,
        "incomplete": None,
    }
    return Discovery(**(values | changes))


def one_null(findings: int, *found: str) -> NullSearch:
    """Return a search where nothing changed, with that many false findings."""
    return NullSearch(
        name="the reference is compared with itself", hypotheses=405, findings=findings, found=found
    )


def hostile_examples() -> tuple[Example, ...]:
    """Return answers that would be markup, reorder their neighbors, or burst a column; one is empty."""
    texts = [
        LONG_WORD,
        f"{HOSTILE[5]} | a | b |\n\n# heading",
        "",
        HOSTILE[0],
        HOSTILE[1] + HOSTILE[2],
        "".join((HOSTILE[3], HOSTILE[4], HOSTILE[6])),
    ]
    return tuple(
        Example(prompt=text or "שלום مرحبا, how are you?", reference=text[::-1], intervened=text)
        for text in texts
    )


def hostile_finding(name: str = "hostile") -> Finding:
    """Return a finding in which every text of a model is hostile."""
    return finding(
        name,
        effect=Effect(kind="phrase", text=HOSTILE[0], also=HOSTILE, pattern=re.escape(HOSTILE[0])),
        trigger=Trigger(
            kind="topic",
            words=(*HOSTILE[:3], LONG_WORD),
            prompts=(HOSTILE[3] + HOSTILE[1],),
            auroc=0.75,
            auroc_low=None,
            auroc_high=None,
        ),
        examples=hostile_examples(),
    )


def varied(first: str = "refusal") -> Discovery:
    """Return a record with findings of every kind, more than the opening of a report names, and one false finding in a null."""
    return record(
        finding(first),
        finding("capitals", "always", Effect(kind="shape", text="in capitals", also=("a list",), pattern=None), behavior=None),
        finding("pirate", "topic", "phrase", "vanished", counts=(2, 40)),
        finding("farewell", "words", "ending", counts=(10, 45)),
        hostile_finding(),
        nulls=(one_null(1, "sure"), NullSearch(name="its weights are rounded", hypotheses=388, findings=0, found=())),
        incomplete="its time was spent",
    )  # fmt: skip


def discovered(folder: RunFolder, found: Discovery | None = None) -> Discovery:
    """Write findings.json, by default with findings of every kind, and return it."""
    found = found or varied()
    folder.discovery.mkdir(exist_ok=True)
    write_discovery(folder.findings, found)
    return found
