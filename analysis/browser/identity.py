"""The digest that identifies a run; a person's decisions on latents are stored and imported under it."""

import numpy as np

from crosscoder.runtime.digests import content_digest

from ..tables.analysis_files import AnalysisResults

_COLUMNS = (
    "n_tokens",
    "n_documents",
    "mean_activation",
    "max_activation",
    "norm_reference",
    "norm_intervened",
    "decoder_cosine",
)


def run_digest(results: AnalysisResults) -> str:
    """Return a digest of the latents and their firing statistics, as 32 hexadecimal digits.

    It covers decoder norms and cosines, and how often and how strongly each latent fires on held-out tokens. It does not
    cover labels, evidence, explanations and error rates: these can be recomputed without losing decisions. Another
    dictionary, or other held-out tokens, give another digest.
    """
    parts = [
        results.features[name].to_numpy(np.float64, na_value=np.nan).astype("<f4").tobytes()
        for name in _COLUMNS
    ]
    return content_digest(b"".join(parts))
