"""The explanations on the page: rules for where latents fire, and sentences that chat models wrote, with their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..explanations.explanation_files import mean_scores, read_explanations, read_rules
from ..tables.analysis_files import AnalysisResults
from .section import Section


def explanation_section(folder: RunFolder, results: AnalysisResults) -> Section:
    """Return rules and written explanations; empty for a run without either.

    Raises:
        FormatError: A file is damaged or belongs to another dictionary.
    """
    n_latents = len(results.features)
    rules, written = read_rules(folder), read_explanations(folder)
    for path, found in ((folder.rules, rules), (folder.explanations, written)):
        if found and max(found) >= n_latents:
            raise FormatError(
                f"{path}: holds latent {max(found)}, but the dictionary has {n_latents}; compute it again"
            )
    header: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    if rules:
        scores = np.full(n_latents, np.nan, dtype=np.float32)
        for latent, rule in rules.items():
            scores[latent] = np.nan if rule.auroc is None else rule.auroc
        arrays["column:rule_auroc"] = scores
    if written:
        # For the search, in addition to the default explanations.
        header["written"] = {
            str(latent): "\n".join(row["text"] or "" for row in rows) for latent, rows in written.items()
        }
        header["judged"] = _judged(written)
    latent_records: dict[str, dict[int, Any]] = {
        "rules": {latent: vars(rule) for latent, rule in rules.items()},
        "written": dict(written),
    }
    return Section(header, arrays, {}, {name: found for name, found in latent_records.items() if found})


def _judged(written: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return mean scores per author and judge: the verdicts on one latent are too few to reveal an uninformative judge."""
    rows = [row for found in written.values() for row in found]
    pairs = dict.fromkeys((row["author"], row["judge"]) for row in rows)
    return [
        {
            "author": author,
            "judge": judge,
            **{
                way: mean._asdict()
                for way, mean in mean_scores(
                    [row for row in rows if (row["author"], row["judge"]) == (author, judge)]
                ).items()
            },
        }
        for author, judge in pairs
    ]
