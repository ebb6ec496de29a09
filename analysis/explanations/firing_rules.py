"""rules.parquet: a short rule for where each of the latents that matter most fires, learnt on half of the held-out documents, and how
well it tells where it fires on the other half."""

import logging
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa

from crosscoder.config import AnalysisConfig

from ..behaviors.behavior_files import named_by_behaviors
from ..labels.rule import CLAIMED
from ..latents.bootstrap import unseen_weights
from ..latents.hashing import block_of
from ..latents.token_context import DocumentContext
from ..latents.trained_run import TrainedRun
from ..tables.columns import RULES
from ..tables.parquet import read_table, write_parquet
from .auroc import auroc
from .firing_table import FiringTable, for_finding, read_firings
from .rules import learn_rule, rule_text
from .token_families import Family, families

logger = logging.getLogger(__name__)


def latents_that_fire(features: pa.Table) -> list[int]:
    """Latents of features.parquet that fire, the one with the largest |shift share| first."""
    table: Any = features.select(["shift_share", "n_tokens"]).to_pandas()
    size = table["shift_share"].abs().fillna(-1).to_numpy(np.float64)
    order = np.argsort(-size, kind="stable")
    return order[(table["n_tokens"].to_numpy() > 0)[order]].tolist()


def latents_that_matter(features: pa.Table, named: Set[int]) -> tuple[list[int], list[int]]:
    """Those whose label claims a change or that a behavior names; and the others that fire. Both by |shift share|, largest first."""
    table: Any = features.select(["latent", "label"]).to_pandas()
    claimed = set(table["latent"][table["label"].isin(CLAIMED)]) | named
    alive = latents_that_fire(features)
    return [one for one in alive if one in claimed], [one for one in alive if one not in claimed]


def learn_rules(run: TrainedRun, features: pa.Table) -> None:
    """Write rules.parquet for the latents of `features` that matter most. Where tokens are not known there is no rule, and no file.

    Rules that are there stay, so that latents that a behavior names later only add to them; `analyze` begins anew by removing the
    file.
    """
    folder, settings = run.folder, run.config.analysis.firing_rule
    if not run.has_text or not settings.latents:
        return
    known = read_table(folder.rules, "analyze") if folder.rules.is_file() else RULES.schema().empty_table()
    first, others = latents_that_matter(features, named_by_behaviors(folder))
    wanted = [*first, *others][: settings.latents]
    fresh = sorted(set(wanted if not len(known) else wanted[: len(first)]) - set(known["latent"].to_pylist()))
    if fresh:
        firings = read_firings(run.reader, run.view, fresh, settings.tokens, run.config.seed, "rules")
        scored = score_rules(firings, run.document_context, run.config.analysis, run.config.seed)
        known = pa.concat_tables([known, scored])
    if len(first) > settings.latents:
        logger.warning(
            "analyze: %d latents are claimed, and the %d with the largest share of the shift get a rule (analysis.firing_rule.latents)",
            len(first),
            settings.latents,
        )
    write_parquet(folder.rules, known.sort_by("latent"))


def score_rules(
    firings: FiringTable, context: DocumentContext, config: AnalysisConfig, seed: int
) -> pa.Table:
    """A row for each latent of the table."""
    kinds = families(context.documents, context.vocabulary, firings.document, firings.position)
    scorer = _Scorer(firings, kinds, config, seed)
    rows = [{"latent": latent, **scorer.row(firings.of(latent))} for latent in firings.latents]
    return pa.Table.from_pylist(rows, schema=RULES.schema())


class _Scorer:
    """What is the same for all latents: which tokens are for what, and the resamples."""

    def __init__(
        self, firings: FiringTable, kinds: Sequence[Family], config: AnalysisConfig, seed: int
    ) -> None:
        self.firings, self.kinds, self.config = firings, kinds, config
        self.finding = for_finding(firings.document, seed)
        claimed = firings.document[~self.finding]
        self.block = block_of(claimed, config.bootstrap_blocks, seed)
        self.weights = unseen_weights(config.bootstrap_samples, config.bootstrap_blocks, seed)

    def row(self, chosen: np.ndarray) -> dict[str, Any]:
        """Of the latent whose firings these are."""
        n_tokens = len(self.firings.document)
        fired, value = np.zeros(n_tokens, dtype=bool), np.zeros(n_tokens, dtype=np.float32)
        fired[self.firings.token[chosen]] = True
        value[self.firings.token[chosen]] = self.firings.value[chosen]
        halves = [("_found_on", fired & self.finding), ("", fired & ~self.finding)]
        row: dict[str, Any] = {"n_tokens": int((~self.finding).sum())}
        for name, half in halves:
            row[f"n_firings{name}"] = int(half.sum())
            row[f"n_documents{name}"] = len(np.unique(self.firings.document[half]))
        row["reason"] = self._why_not(row, fired)
        return row if row["reason"] else row | self._scored(fired, value)

    def _why_not(self, row: dict[str, Any], fired: np.ndarray) -> str | None:
        least = self.config.rule.min_documents
        for name, half in (
            ("_found_on", "half that rules are learnt on"),
            ("", "half that rules are scored on"),
        ):
            found = row[f"n_documents{name}"]
            if found < least:
                return f"undetermined: fires in {found} documents of the {half} (fewer than {least})"
        if any(fired[part].all() for part in (self.finding, ~self.finding)):
            return "undetermined: fires on every token of a half"
        return None if self.kinds else "undetermined: nothing tells the tokens apart"

    def _scored(self, fired: np.ndarray, value: np.ndarray) -> dict[str, Any]:
        rule = learn_rule(fired, self.finding, self.kinds, self.config.firing_rule.items)
        claimed, confidence = ~self.finding, self.config.rule.confidence
        holds = rule.holds()[claimed]
        scores = {
            "auroc": auroc(fired[claimed], holds, self.block, self.weights, confidence),
            "activation_auroc": auroc(holds, value[claimed], self.block, self.weights, confidence),
        }
        numbers = {
            f"{name}{end}": None if np.isnan(number) else number
            for name, found in scores.items()
            for end, number in zip(("", "_low", "_high"), found, strict=True)
        }
        items = list(rule.item_texts)
        return numbers | {
            "family": rule.family.name,
            "items": items,
            "negated": rule.negated,
            "text": rule_text(rule.family.name, items, rule.negated),
            "bits_saved": rule.bits_saved,
        }
