"""What the page holds of explanations: the rule of each latent that has one, and what chat models wrote, with their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..explanations.explanation_files import mean_scores, read_rules, read_written
from ..tables.analysis_files import AnalysisResults
from .section import Section


def explanation_section(folder: RunFolder, results: AnalysisResults) -> Section:
    """Rules and written explanations; nothing for a run without either.

    Raises `FormatError` where a file is damaged or of another dictionary.
    """
    n_latents = len(results.features)
    rules, written = read_rules(folder), read_written(folder)
    for path, found in ((folder.rules, rules), (folder.explanations, written)):
        if found and max(found) >= n_latents:
            raise FormatError(
                f"{path}: holds latent {max(found)}, but the dictionary has {n_latents}; make it anew"
            )
    header: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    if rules:
        scores = np.full(n_latents, np.nan, dtype=np.float32)
        for latent, rule in rules.items():
            scores[latent] = np.nan if rule.auroc is None else rule.auroc
        arrays["column:rule_auroc"] = scores
    if written:
        # Beside the default explanations, to search in.
        header["written"] = {
            str(latent): "\n".join(row["text"] or "" for row in rows) for latent, rows in written.items()
        }
        header["judged"] = _judged(written)
    of_latents: dict[str, dict[int, Any]] = {
        "rules": {latent: vars(rule) for latent, rule in rules.items()},
        "written": dict(written),
    }
    return Section(header, arrays, {}, {name: found for name, found in of_latents.items() if found})


def _judged(written: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean scores of each author and judge: of one latent alone there are too few verdicts to tell a judge that cannot judge."""
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
