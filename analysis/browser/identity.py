"""Which run a page is of: what people decide of its latents is kept, and taken over, under this name."""

import numpy as np

from crosscoder.runtime.files import content_digest

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
    """Digest of what each latent is and where it fires, as 32 hexadecimal digits.

    It covers the directions' norms and cosine and how often and how strongly each latent fires on held-out tokens. It does
    not cover what is said of a latent: labels, evidence, explanations and rates of errors may be made anew, and decisions
    on the same latents stay. Another dictionary, or other held-out tokens, give another digest.
    """
    parts = [
        results.features[name].to_numpy(np.float64, na_value=np.nan).astype("<f4").tobytes()
        for name in _COLUMNS
    ]
    return content_digest(b"".join(parts))
