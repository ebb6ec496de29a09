"""The column `observation`: what the analysis observes of each latent, from the pass, the labels and the logit tables."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..labels.feature_table import Features
from ..latents.held_out_pass import Pass
from ..latents.trained_run import TrainedRun
from .sentences import LatentFacts, observation


def observations(run: TrainedRun, seen: Pass, features: Features, logits: pa.Table) -> list[str]:
    """Return one text per latent."""
    top_tokens: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    top = logits.filter(pc.field("side") == "top")
    for latent, model, token, readable in zip(
        *(top[name].to_pylist() for name in ("latent", "model", "token", "readable")), strict=True
    ):
        # A list that is no better than those of random directions stays empty.
        top_tokens[latent][model] += [token] if readable else []
    peak_tokens: dict[int, list[str]] = defaultdict(list)
    if run.has_models:
        shown = run.context.show(seen.top.document, seen.top.position).tokens.to_pylist()
        for latent, token in zip(seen.top.latent.tolist(), shown, strict=True):
            peak_tokens[latent].append(token)
    columns, statistics = features.columns, seen.statistics
    firings = dict(zip(statistics.source_names, statistics.by_source.tolist(), strict=True))
    missing = np.full(len(features.labels), np.nan)
    relative_norm = columns.get("relative_norm", missing)
    rates = [columns.get(f"density_{model}") for model in ("reference", "intervened")]
    return [
        observation(
            LatentFacts(
                label=features.labels[latent],
                reason=features.reasons[latent],
                density=float(columns["density"][latent]),
                n_tokens=int(columns["n_tokens"][latent]),
                n_documents=int(columns["n_documents"][latent]),
                firings_by_source={name: counts[latent] for name, counts in firings.items()},
                template_share=float(columns["template_share"][latent]),
                peak_tokens=peak_tokens[latent],
                relative_norm=float(relative_norm[latent]),
                top_tokens=top_tokens[latent],
                density_by_model=None
                if rates[0] is None or rates[1] is None
                else (float(rates[0][latent]), float(rates[1][latent])),
            )
        )
        for latent in range(len(features.labels))
    ]
