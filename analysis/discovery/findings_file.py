"""RUN/discovery/findings.json: what was found, how it was tested, and what the same search finds where nothing changed."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crosscoder.errors import FormatError
from crosscoder.runtime.expressions import Expression
from crosscoder.runtime.files import read_json, write_atomic

SCHEMA_VERSION: Literal[1] = 1

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

EffectKind = Literal["opening", "phrase", "ending", "shape"]
TriggerKind = Literal["always", "words", "all_words", "topic"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(_Part):
    """A share of answers, with its Wilson interval."""

    count: Count
    """Answers that show the effect."""

    value: Share
    low: Share
    high: Share


class Rates(_Part):
    """How often answers to some prompts show the effect, in each model."""

    n: Count
    """Prompts of the claim set; each model answers each once."""

    reference: Rate
    intervened: Rate


class Effect(_Part):
    """What an answer shows."""

    kind: EffectKind
    """opening: the answer begins with `text`; ending: it ends with it; phrase: it contains it; shape: `text` describes its form."""

    text: str
    """The words, in lower case as they were counted, or for a shape a description such as "shorter than 12 words"."""

    also: tuple[str, ...]
    """Other openings, phrases, endings or shapes of the same answers, the most frequent first."""

    pattern: str | None
    """Regular expression that finds the effect in an answer, ignoring case; None for a shape that no expression finds."""


class Trigger(_Part):
    """The prompts after which the effect is more frequent."""

    kind: TriggerKind
    """always: all prompts; words: prompts that contain any of `words`; all_words: prompts that contain all of them; topic: prompts that the reference represents alike."""

    words: tuple[str, ...]
    """words, all_words: the rule itself. topic: words that are typical of these prompts, which only describe it. always: empty."""

    prompts: tuple[str, ...]
    """Prompts of the claim set that meet it: those whose answers changed first, wordings of one prompt last."""

    auroc: Share | None
    """How well the trigger's score separates, on the claim set, the prompts whose answers gained the effect from all others; None for always."""

    auroc_low: Share | None
    auroc_high: Share | None


class Example(_Part):
    """Both models' answers to one prompt of the claim set."""

    prompt: str
    reference: str
    intervened: str


class Finding(_Part):
    """A change of behavior that holds on prompts that did not find it."""

    name: str
    """Letters, digits and dashes; also the name of its behavior."""

    direction: Literal["gained", "vanished"]
    """gained: the effect is more frequent in the intervened model; vanished: in the reference."""

    effect: Effect
    trigger: Trigger

    with_trigger: Rates
    without_trigger: Rates | None
    """On prompts that do not meet the trigger; None for always."""

    cut: Count
    """Prompts that meet the trigger whose answer, by the model that shows the effect more often, reached the limit on its length first: whether it would have ended with the effect is unknown. 0 for effects that do not come at the end."""

    difference: float
    """Rate of the intervened model minus that of the reference, with the trigger; negative if vanished."""

    difference_low: float
    difference_high: float

    p_value: Share
    """Exact test of whether the models differ, on the claim set (and whether the trigger matters)."""

    q_value: Share
    """Benjamini and Hochberg's, over all hypotheses that were tested."""

    examples: tuple[Example, ...]
    behavior: str | None
    """File of the behavior, relative to the run folder, ready to edit and attribute; None if the effect has no pattern."""


def expression_of(finding: Finding) -> Expression:
    """Return the expression of an effect that has a pattern, as the behavior of the finding applies it. Raises FormatError if it is none."""
    assert finding.effect.pattern is not None
    return Expression(
        finding.effect.pattern, f"findings.json: the pattern of {finding.name}", ignore_case=True
    )


class NullSearch(_Part):
    """The same search where nothing that a person would report changed."""

    name: str
    """What is compared, as a clause: "the reference is compared with itself"."""

    hypotheses: Count
    findings: Count
    found: tuple[str, ...]
    """The effects that it found."""


class Discovery(_Part):
    """The whole record."""

    schema_version: Literal[1] = SCHEMA_VERSION
    prompts: dict[str, Count]
    """Prompts by where they came from: probes, text, openings, variants, similar."""

    find_prompts: Count
    claim_prompts: Count
    answer_tokens: Count
    temperature: float
    false_discovery_rate: Share
    least_difference: Share
    """The smallest difference of rates that counts as a finding."""

    hypotheses: Count
    """Pairs of a trigger and an effect that were tested on the claim set."""

    findings: tuple[Finding, ...]
    """The clearest first: the signed root of McNemar's statistic on the claim set."""

    nulls: tuple[NullSearch, ...]
    changed_prompts: Share | None
    """Share of the claim prompts on which a finding's effect accounts for the difference between the models' answers; None without findings."""

    incomplete: str | None
    """Why the search stopped early, e.g. its time was spent; None if it did not."""

    made_with: str | None = None
    """Digest of the models, prompts and settings of the search: a finished search with the same digest is not made again."""


def write_discovery(path: Path, found: Discovery) -> None:
    """Write findings.json."""
    write_atomic(path, json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def read_discovery(path: Path) -> Discovery | None:
    """Read findings.json; None if the run has none.

    Raises:
        FormatError: The file is damaged or has another version.
    """
    if not path.is_file():
        return None
    content = read_json(path, "run crosscoder discover again")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise FormatError(
            f"{path}: schema_version is {version!r}, but this release reads {SCHEMA_VERSION}; run crosscoder discover again"
        )
    try:
        return Discovery.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FormatError(f"{path}: {place}: {first['msg']}; run crosscoder discover again") from None
