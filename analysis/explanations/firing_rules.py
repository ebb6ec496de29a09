"""rules.parquet: a short rule for where each of the most relevant latents fires. Rules are learned on half of the held-out documents and
scored on the other half."""

import logging
from collections.abc import Collection, Sequence, Set
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
from .firing_table import FiringTable, in_find_set, read_firings
from .rules import learn_rule, rule_text
from .token_families import TokenFamily, token_families

logger = logging.getLogger(__name__)


def firing_latents(features: pa.Table) -> list[int]:
    """Return the latents of features.parquet that fire, by |shift share|, largest first."""
    table: Any = features.select(["shift_share", "n_tokens"]).to_pandas()
    size = table["shift_share"].abs().fillna(-1).to_numpy(np.float64)
    order = np.argsort(-size, kind="stable")
    return order[(table["n_tokens"].to_numpy() > 0)[order]].tolist()


def claimed_and_others(features: pa.Table, named: Set[int]) -> tuple[list[int], list[int]]:
    """Return the firing latents whose label claims a change or that a behavior names, and the other firing latents.

    Both are sorted by |shift share|, largest first.
    """
    table: Any = features.select(["latent", "label"]).to_pandas()
    claimed = set(table["latent"][table["label"].isin(CLAIMED)]) | named
    alive = firing_latents(features)
    return [latent for latent in alive if latent in claimed], [
        latent for latent in alive if latent not in claimed
    ]


def learn_rules(run: TrainedRun, features: pa.Table, not_yet: Collection[str] = ()) -> None:
    """Write rules.parquet for the most relevant latents of `features`. A run without tokens gets no file.

    Existing rules are kept, and latents that a behavior names later are added to them; `analyze` removes the file first.

    Args:
        not_yet: Names of behaviors whose latents come later, so that the rules do not depend on how many are attributed at once.
    """
    folder, settings = run.folder, run.config.analysis.firing_rule
    if not run.has_text or not settings.latents:
        return
    known = read_table(folder.rules, "analyze") if folder.rules.is_file() else RULES.schema().empty_table()
    claimed, others = claimed_and_others(features, named_by_behaviors(folder, not_yet))
    wanted = [*claimed, *others][: settings.latents]
    new = sorted(set(wanted if not len(known) else wanted[: len(claimed)]) - set(known["latent"].to_pylist()))
    if new:
        firings = read_firings(run.reader, run.view, new, settings.tokens, run.config.seed, "rules")
        scored = score_rules(firings, run.document_context, run.config.analysis, run.config.seed)
        known = pa.concat_tables([known, scored])
    if len(claimed) > settings.latents:
        logger.warning(
            "analyze: %d latents are claimed, but only the %d with the largest share of the shift get a rule (analysis.firing_rule.latents)",
            len(claimed),
            settings.latents,
        )
    write_parquet(folder.rules, known.sort_by("latent"))


def score_rules(
    firings: FiringTable, context: DocumentContext, config: AnalysisConfig, seed: int
) -> pa.Table:
    """Return one row per latent of the table."""
    families = token_families(context.documents, context.vocabulary, firings.document, firings.position)
    scorer = _Scorer(firings, families, config, seed)
    rows = [{"latent": latent, **scorer.row(firings.of(latent))} for latent in firings.latents]
    return pa.Table.from_pylist(rows, schema=RULES.schema())


class _Scorer:
    """Learns and scores rules; holds the split and the resamples, which all latents share."""

    def __init__(
        self, firings: FiringTable, families: Sequence[TokenFamily], config: AnalysisConfig, seed: int
    ) -> None:
        self.firings, self.families, self.config = firings, families, config
        self.find_set = in_find_set(firings.document, seed)
        claim_documents = firings.document[~self.find_set]
        self.block = block_of(claim_documents, config.bootstrap_blocks, seed)
        self.weights = unseen_weights(config.bootstrap_samples, config.bootstrap_blocks, seed)

    def row(self, chosen: np.ndarray) -> dict[str, Any]:
        """Return the row of the latent with these firings."""
        n_tokens = len(self.firings.document)
        fired, value = np.zeros(n_tokens, dtype=bool), np.zeros(n_tokens, dtype=np.float32)
        fired[self.firings.token[chosen]] = True
        value[self.firings.token[chosen]] = self.firings.value[chosen]
        halves = [("_found_on", fired & self.find_set), ("", fired & ~self.find_set)]
        row: dict[str, Any] = {"n_tokens": int((~self.find_set).sum())}
        for name, half in halves:
            row[f"n_firings{name}"] = int(half.sum())
            row[f"n_documents{name}"] = len(np.unique(self.firings.document[half]))
        row["reason"] = self._reason(row, fired)
        return row if row["reason"] else row | self._scored(fired, value)

    def _reason(self, row: dict[str, Any], fired: np.ndarray) -> str | None:
        least = self.config.rule.min_documents
        for name, half in (
            ("_found_on", "find set"),
            ("", "claim set"),
        ):
            found = row[f"n_documents{name}"]
            if found < least:
                return f"undetermined: fires in {found} documents of the {half} (fewer than {least})"
        if any(fired[part].all() for part in (self.find_set, ~self.find_set)):
            return "undetermined: fires on every token of the find set or of the claim set"
        return None if self.families else "undetermined: no feature distinguishes the tokens"

    def _scored(self, fired: np.ndarray, value: np.ndarray) -> dict[str, Any]:
        rule = learn_rule(fired, self.find_set, self.families, self.config.firing_rule.items)
        claim_set, confidence = ~self.find_set, self.config.rule.confidence
        holds = rule.holds()[claim_set]
        scores = {
            "auroc": auroc(fired[claim_set], holds, self.block, self.weights, confidence),
            "activation_auroc": auroc(holds, value[claim_set], self.block, self.weights, confidence),
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
