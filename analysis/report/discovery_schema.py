"""Findings in a report, as data: changes of behavior that `crosscoder discover` found without being told what to look for."""

from typing import Literal

from .behavior_schema import Estimate
from .fields import Address, Count, Evidence, Finite, Quoted, ReportPart
from .headline_schema import Headline
from .wording import Sentence


class AnswerRate(ReportPart):
    """How many answers of one model show an effect."""

    count: Count
    """Number of answers that show it."""

    share: Estimate
    """Share of the answers that show it."""


class AnswerRates(ReportPart):
    """How many answers of each model show an effect; each model answers each prompt once."""

    prompts: Count
    """Number of held-out prompts."""

    reference: AnswerRate
    """Answers of the reference."""

    intervened: AnswerRate
    """Answers of the intervened model."""


class AnswerPair(ReportPart):
    """Both models' answers to one held-out prompt; long texts end in an ellipsis."""

    prompt: Quoted
    """The prompt."""

    reference: Quoted
    """The reference's answer."""

    intervened: Quoted
    """The intervened model's answer."""


class LinkedLatent(ReportPart):
    """A latent that carries some of the shift of a finding's behavior."""

    latent: Count
    """Index, counted from 0, as in features.parquet."""

    evidence: Evidence
    """Strongest supported claim about it."""

    link: Address
    """The latent on the page."""


class DiscoveredFinding(ReportPart):
    """A finding: after which prompts the answers of the two models differ, and how."""

    name: Quoted
    """Name of the finding, and of its behavior."""

    direction: Literal["gained", "vanished"]
    """`gained`: the intervened model shows the effect more often; `vanished`: the reference does."""

    trigger: Literal["always", "words", "all_words", "topic"]
    """The prompts after which the answers differ. `always`: all of them; `words`: those that contain one of the words; `all_words`: those that contain all of them; `topic`: those that the
    reference represents alike."""

    effect: Literal["opening", "phrase", "ending", "shape"]
    """What the answers show: words at their start, anywhere or at their end, or their form."""

    effect_text: Quoted
    """The words, or the form in words."""

    established: bool
    """Whether the finding passed its checks. If not, `sentence` says why."""

    sentence: Sentence
    """The finding with its evidence. If it is not established: what is not, and why."""

    details: tuple[Sentence, ...]
    """The test, the trigger, what else the same answers show, and the file of the behavior."""

    with_trigger: AnswerRates
    """Rates on prompts that meet the trigger."""

    without_trigger: AnswerRates | None
    """Rates on all other prompts; null if all prompts meet it."""

    difference: Estimate
    """Share of the intervened model minus that of the reference, on prompts that meet the trigger."""

    p_value: Finite
    """p-value of the exact test on held-out prompts."""

    q_value: Finite
    """The p-value corrected for all hypotheses of the search (Benjamini and Hochberg)."""

    auroc: Estimate | None
    """How well the trigger separates the held-out prompts whose answers changed so from all others; null if all prompts meet it."""

    examples: tuple[AnswerPair, ...]
    """Both models' answers to some of the held-out prompts."""

    behavior: Quoted | None
    """File of the behavior, relative to the run folder; null if no regular expression finds the effect."""

    carried: Headline | None
    """What carries the shift of the behavior of this name, with the checks that this rests on; null if the run has no such behavior."""

    latents: tuple[LinkedLatent, ...]
    """The latents that carry it; empty if it is not attributed."""


class NullResult(ReportPart):
    """What the same search finds in a null: between models in which nothing that a person would report changed."""

    name: Quoted
    """What is compared with what."""

    hypotheses: Count
    """Number of hypotheses that were tested there."""

    findings: Count
    """Number of findings, all of them false."""

    found: tuple[Quoted, ...]
    """The effects that it found."""


class DiscoverySection(ReportPart):
    """What changed in the answers: the findings, and how far they can be trusted."""

    ran: bool
    """Whether `crosscoder discover` ran."""

    opening: Sentence
    """How many findings there are; if there are none, what this does not show; if discovery did not run, how to run it."""

    searched: Sentence | None
    """Prompts, hypotheses and limits of the search; null if it did not run."""

    in_nulls: Sentence | None
    """What the same search finds in its nulls; null if it did not run."""

    coverage: Sentence | None
    """Which share of the held-out prompts the findings account for; null if there are none."""

    incomplete: Sentence | None
    """Why the search stopped early; null if it did not."""

    hypotheses: Count | None
    """Number of hypotheses that were tested on held-out prompts; null if it did not run."""

    false_discovery_rate: Finite | None
    """Largest q-value of a finding; null if it did not run."""

    least_difference: Finite | None
    """Smallest difference of shares that counts as a finding; null if it did not run."""

    findings: tuple[DiscoveredFinding, ...]
    """The findings, the clearest first."""

    nulls: tuple[NullResult, ...]
    """Every null that was searched."""
