"""The feature table: for every latent its numbers, its label and the reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from crosscoder.config import AnalysisConfig, LabelRule
from crosscoder.config.model_names import MODEL_NAMES

from ..latents.bootstrap import BlockMoments, block_intervals, resample_weights
from ..latents.dictionary_view import DictionaryView, PairedView
from ..latents.geometry import Geometry
from ..latents.statistics import Statistics
from ..latents.unselected_scaling import UnselectedScaling, nu_unselected
from ..tables.columns import FEATURES
from .counts import CountInterval, count_intervals
from .evidence import Estimate, Estimates, Evidence, RateEvidence, estimates_of, evidence_of
from .false_discovery import FAMILIES, Candidates, candidates_of, q_values
from .latent_measures import (
    SCALING,
    SIDES,
    Columns,
    activity,
    effect_of,
    estimators_of,
    geometry_columns,
    leans_to_intervened,
    rates_along_twins,
    scaling_columns,
    unmapped_columns,
    with_interval,
)
from .reasons import FoundAgain, reason_of, reason_of_difference, reason_of_rate
from .replication import Replica, Replication, replication
from .rule import LABELS, ClaimSupport, Label, Outcome, decide, decide_by_rate, held_back, is_claim, labels_of
from .spans import span_residuals

_ORDER = (
    *("relative_norm", "norm_reference", "norm_intervened", "norm_reference_raw", "norm_intervened_raw"),
    *("relative_norm_raw", "decoder_cosine"),
    *(f"{name}{bound}" for name in SCALING for bound in ("", "_low", "_high")),
    *(f"{name}_{side}" for side in SIDES for name in SCALING),
    *("relative_rate", "relative_rate_low", "relative_rate_high"),
    *("density", "density_low", "density_high", "n_tokens", "n_documents", "template_share"),
    *("mean_activation", "max_activation", "shift_share", "shift_share_low", "shift_share_high"),
    *("unmapped_share", "unmapped_share_low", "unmapped_share_high", "effect"),
    *("nu_unselected", "nu_unselected_low", "nu_unselected_high", "partner_jaccard"),
    *(
        "q_value",
        "seed_stability",
        "label_stability",
        "span_residual",
        "difference_latent",
        "difference_cosine",
        "onset",
        "twin",
        "twin_cosine",
    ),
)


@dataclass(frozen=True)
class Features:
    """The columns of features.parquet except `evidence`, `observation` and `explanation`; NaN: not estimable or not measured."""

    columns: Columns
    labels: tuple[Label, ...]
    reasons: tuple[str, ...]
    evidence: Evidence | None = None
    """Evidence for the labels of a crosscoder; None if the models cannot be compared or the dictionary is no crosscoder."""

    count_intervals: Mapping[Label, CountInterval] = field(default_factory=dict)
    """Interval of the number of latents with each label; empty without `evidence`."""

    replication: Replication = field(default_factory=lambda: Replication.unknown(0))
    """How many other trainings find each latent again."""

    candidates: tuple[Label, ...] = ()
    """Label of each latent in this training alone: before q-values and replication; empty if nothing was labeled."""

    withheld: str | None = None
    """Why no latent is labeled; None: they are."""

    def table(self, observations: list[str]) -> pa.Table:
        """Return an Arrow table, with NaN as null. `features_file.write_features` fills in evidence and explanations."""
        n_latents = len(self.labels)
        table: dict[str, Any] = {
            "latent": np.arange(n_latents),
            "label": self.labels,
            "candidate": self.candidates or self.labels,
            "evidence": ["observed"] * n_latents,
            "reason": self.reasons,
        }
        extra = [name for name in self.columns if name not in (*_ORDER, *table)]
        nothing = np.full(n_latents, np.nan)
        table |= {name: self.columns.get(name, nothing) for name in (*_ORDER, *extra)}
        return FEATURES.build(table | {"observation": observations, "explanation": observations})


AskUnselected = Callable[
    [Int64[np.ndarray, " asked"], Bool[np.ndarray, " asked"], Float64[np.ndarray, " latent"]],
    UnselectedScaling,
]
"""Measures latents again on the tokens that one model alone chooses: their numbers, whether that is the intervened model, and the mean
activation of every latent."""


@dataclass(frozen=True)
class Support:
    """What a label that claims a change needs beside the evidence of this dictionary."""

    nulls: Sequence[Candidates] = ()
    """Latents of the null pairs, for q-values."""

    replicas: Sequence[Replica] = ()
    """Other trainings on the same pair."""

    ask_unselected: AskUnselected | None = None
    """None: `nu_unselected` and replaced pairs are not measured, as for controls."""

    withheld: str | None = None
    """Why no latent of this run is labeled; None: they are."""


def make_features(
    view: DictionaryView,
    statistics: Statistics,
    config: AnalysisConfig,
    seed: int,
    support: Support | None = None,
) -> Features:
    """Return all columns and labels, for every view. Without `support`, labels are those of this training alone, before q-values, and their
    numbers have no intervals."""
    alone = support is None
    rule = config.rule.model_copy(update={"replications": 0}) if alone else config.rule
    support = support or Support()
    columns = activity(view, statistics)
    geometry = None
    if view.reads == "paired":
        geometry = Geometry.of(view.crosscoder, view.linear_map)
        columns |= geometry_columns(geometry, columns["n_tokens"] > 0)
    estimators, constants = estimators_of(view, statistics)
    moments = BlockMoments(statistics.sums, statistics.totals, constants)
    weights = resample_weights(config.bootstrap_samples, config.bootstrap_blocks, seed)
    intervals = block_intervals(moments, estimators, rule.confidence)
    whole = moments.whole()
    estimates = estimates_of({name: statistic(whole) for name, statistic in estimators.items()}, intervals)
    for name in ("density", "shift_share", "relative_rate"):
        columns |= with_interval(name, estimates)
    intervened_stronger = leans_to_intervened(view, columns, estimates)
    columns |= scaling_columns(estimates, intervened_stronger)
    if view.linear_map is not None:
        columns |= unmapped_columns(estimates, intervened_stronger)
    if isinstance(view, PairedView):
        columns["effect"] = effect_of(view, statistics, intervened_stronger)
    again = replication(label_directions(view), support.replicas, rule.replication_cosine)
    columns["seed_stability"] = again.by_direction
    columns["span_residual"] = np.full(view.n_latents, np.nan)
    if geometry is None:
        return _without_norms(view, columns, estimates, rule, again, support.withheld)
    if view.aligned:
        columns |= rates_along_twins(geometry, columns, view.agreement, rule)
    evidence = evidence_of(columns, estimates, view.agreement, view.aligned)
    if view.aligned and support.ask_unselected is not None:
        evidence = _with_unselected(columns, evidence, rule, support.ask_unselected)
    if view.aligned:
        columns["q_value"] = q_values(candidates_of(columns, evidence, rule), support.nulls)
        evidence = evidence._replace(q_value=columns["q_value"])
    outcomes = decide(evidence, rule)
    columns["span_residual"] = _span_residuals(geometry, labels_of(outcomes), rule)
    reasons = [
        reason_of(Outcome(outcome), evidence.at(latent), rule, found)
        for latent, (outcome, found) in enumerate(_with_replication(outcomes, again, columns, rule))
    ]
    features = _labeled(columns, outcomes, evidence.q_value, reasons, rule, again, support.withheld)
    if not view.aligned:
        return features
    if alone or support.withheld is not None:
        return replace(features, evidence=evidence)
    counts = count_intervals(evidence, moments, estimators, weights, rule, again, columns["span_residual"])
    return replace(features, evidence=evidence, count_intervals=counts)


def label_directions(view: DictionaryView) -> tuple[Float[Tensor, "latent _"], ...]:
    """Return the decoder rows that replication compares: of both models in training space, or the one that both share."""
    rows = view.directions[:2] if isinstance(view, PairedView) else view.raw[:1]
    return tuple(part.detach().cpu() for part in rows)


def _with_unselected(
    columns: Columns,
    evidence: Evidence,
    rule: LabelRule,
    ask: AskUnselected,
) -> Evidence:
    """Measure the latents that would be new, lost or replaced on the tokens that one model alone chooses, and add what was found.

    A new or lost latent is asked about with the model that has it. A replaced one has a direction in each; the one that the other model holds
    more of counts.
    """
    outcomes, n_latents = decide(evidence, rule), len(columns["n_tokens"])
    nu = Estimate(*np.full((3, n_latents), np.nan))
    columns["partner_jaccard"] = np.full(n_latents, np.nan)

    def measured(latents: np.ndarray, by_intervened: np.ndarray) -> tuple[Estimate, UnselectedScaling]:
        found = ask(latents, by_intervened, columns["mean_activation"])
        low, high = block_intervals(found.moments, {"nu": nu_unselected}, rule.confidence)["nu"]
        return Estimate(nu_unselected(found.moments.whole()).numpy(), low.numpy(), high.numpy()), found

    def add(latents: np.ndarray, values: Estimate) -> None:
        for part, value in zip(nu, values, strict=True):
            part[latents] = value

    exclusive = np.flatnonzero(np.isin(outcomes, (Outcome.NEW, Outcome.LOST)))
    if len(exclusive):
        stronger = np.asarray(evidence.intervened_stronger)[exclusive]
        values, found = measured(exclusive, stronger)
        add(exclusive, values)
        columns["partner_jaccard"][exclusive] = found.partner_jaccard(stronger)
    replaced = np.flatnonzero(outcomes == Outcome.REPLACED)
    if len(replaced):
        sides = [measured(replaced, np.full(len(replaced), side))[0] for side in (False, True)]
        # What has no bound may be anything, and counts as most; what was not measured counts as least.
        held = [
            np.where(np.isnan(one.value), -1.0, np.nan_to_num(one.magnitude_bound, nan=np.inf))
            for one in sides
        ]
        larger = np.argmax(held, axis=0)
        add(replaced, Estimate(*(np.choose(larger, parts) for parts in zip(*sides, strict=True))))
    columns |= {f"nu_unselected{bound}": part for bound, part in zip(("", "_low", "_high"), nu, strict=True)}
    return evidence._replace(nu_unselected=nu, partner_jaccard=columns["partner_jaccard"])


def _span_residuals(
    geometry: Geometry, labels: Int[np.ndarray, " latent"], rule: LabelRule
) -> Float[np.ndarray, " latent"]:
    """Return the span residuals of latents that claim a change, by what they write into both models."""
    rows = geometry.reference, geometry.intervened
    return span_residuals(rows, labels, FAMILIES, rule.replication_cosine)


def _with_replication(
    outcomes: Int[np.ndarray, " latent"], again: Replication, columns: Columns, rule: LabelRule
) -> Iterator[tuple[int, FoundAgain]]:
    """Yield each latent's outcome and how many other trainings find it again."""
    shares = again.share(labels_of(outcomes), rule)
    residuals = columns["span_residual"].tolist()
    for outcome, share, residual in zip(outcomes.tolist(), shares.tolist(), residuals, strict=True):
        yield outcome, FoundAgain(share, again.n_trainings, residual)


def _labeled(
    columns: Columns,
    outcomes: Int[np.ndarray, " latent"],
    q_value: Any,
    reasons: Sequence[str],
    rule: LabelRule,
    again: Replication,
    withheld: str | None,
) -> Features:
    """Return the labels of outcomes, held back or withheld where they must be."""
    found = labels_of(outcomes)
    columns["label_stability"] = np.where(is_claim(found), again.share(found, rule), np.nan)
    support = ClaimSupport(q_value, columns["label_stability"], columns["span_residual"])
    labels = held_back(found, support, rule)
    if withheld is not None:
        dead = labels == LABELS.index("dead")
        labels = np.where(dead, labels, LABELS.index("undetermined"))
        reasons = [
            reason if is_dead else f"not labeled: {withheld}"
            for reason, is_dead in zip(reasons, dead, strict=True)
        ]
    return Features(
        columns,
        _label_names(labels),
        tuple(reasons),
        replication=again,
        candidates=_label_names(found),
        withheld=withheld,
    )


def _without_norms(
    view: DictionaryView,
    columns: Columns,
    estimates: Estimates,
    rule: LabelRule,
    again: Replication,
    withheld: str | None,
) -> Features:
    """Label a dictionary with one direction for both models; by firing rates if each model has its own code."""
    if view.reads == "pooled":
        evidence = RateEvidence(
            columns["n_tokens"],
            columns["n_documents"],
            columns["density_reference"],
            columns["density_intervened"],
            estimates["relative_rate"],
        )
        outcomes = decide_by_rate(evidence, rule)
        reasons = [
            reason_of_rate(Outcome(outcome), evidence.at(latent), rule, found)
            for latent, (outcome, found) in enumerate(_with_replication(outcomes, again, columns, rule))
        ]
    else:
        outcomes = np.where(columns["n_tokens"] == 0, Outcome.DEAD, Outcome.ONLY_DIFFERENCE)
        betas = [columns[f"beta_{model}"] for model in MODEL_NAMES]
        reasons = [
            reason_of_difference(Outcome(outcome), *(float(beta[latent]) for beta in betas))
            for latent, outcome in enumerate(outcomes.tolist())
        ]
    return _labeled(columns, outcomes, np.nan, reasons, rule, again, withheld)


def _label_names(labels: np.ndarray) -> tuple[Label, ...]:
    return tuple(LABELS[index] for index in labels.tolist())
