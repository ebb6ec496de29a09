"""The cost of the analysis pass, compared with encoding alone."""

from collections.abc import Callable, Sequence

import torch

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import AnalysisConfig
from crosscoder.dictionary.views import view_rows

from ..latents.dictionary_view import DictionaryView
from ..latents.held_out_pass import PassAccumulator
from ..latents.token_context import RowContext


class _TemplateContext(RowContext):
    """Tokens of one source without template tokens, but with the cost of looking them up."""

    has_template = True


def analysis_passes(view: DictionaryView, batches: Sequence[ActivationBatch]) -> dict[str, Callable[[], int]]:
    """Return the passes to time; each processes all tokens and returns their number.

    encode   the baseline: the dense code of every batch, without any statistics
    pass     what `analyze` does with every batch. Each call continues the previous one, as in a long pass, in which the
             lists of examples are truncated from time to time
    """
    document = torch.cat([batch.document for batch in batches]).long().cpu().numpy()
    accumulator = PassAccumulator(view, _TemplateContext(document), AnalysisConfig(), seed=0)
    n_tokens = len(document)

    @torch.no_grad()
    def encode() -> int:
        crosscoder = view.crosscoder
        for batch in batches:
            values = batch.values.to(view.device, crosscoder.W_enc.dtype)
            crosscoder.encode(view_rows(values, view.d_models, view.reads))
        return n_tokens

    def full_pass() -> int:
        for batch in batches:
            accumulator.update(batch)
        return n_tokens

    return {"encode": encode, "pass": full_pass}
