"""What analysis costs, beside the encoding that no reading of a dictionary can do without."""

from collections.abc import Callable, Sequence

import torch

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import AnalysisConfig
from crosscoder.dictionary.inputs import view_rows

from ..latents.dictionary_view import DictionaryView
from ..latents.held_out_pass import PassAccumulator
from ..latents.token_context import RowContext


class _TemplateContext(RowContext):
    """Tokens of one source none of which a template wrote, though that is looked up."""

    has_template = True


def analysis_passes(view: DictionaryView, batches: Sequence[ActivationBatch]) -> dict[str, Callable[[], int]]:
    """Ways through the same tokens; each goes through all of them and returns how many there are.

    encode   the reference: the dense code of every batch, and nothing made of it
    pass     what `analyze` does with every batch. It goes on from where the call before it stopped, as in a long pass, in
             which the lists of examples are cut back now and then
    """
    document = torch.cat([batch.document for batch in batches]).long().cpu().numpy()
    gathered = PassAccumulator(view, _TemplateContext(document), AnalysisConfig(), seed=0)
    n_tokens = len(document)

    @torch.no_grad()
    def encode() -> int:
        crosscoder = view.crosscoder
        for batch in batches:
            values = batch.values.to(view.device, crosscoder.W_enc.dtype)
            crosscoder.encode(view_rows(values, view.d_models, view.reads))
        return n_tokens

    def read_through() -> int:
        for batch in batches:
            gathered.update(batch)
        return n_tokens

    return {"encode": encode, "pass": read_through}
