"""Whether activations that another program computed are those of the models at their hookpoints.

Some documents are run through the models here. The files have to agree with that up to rounding, and have to agree with no other place
of the model, and with no other model of the pair, better: models of a pair may differ by less than two programs round.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder.errors import DataError, PairError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from .extraction import ModelInputs, model_inputs, pack, read_activations
from .outside_activations import OutsideActivations

logger = logging.getLogger(__name__)

_LIMITS = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 0.01}
"""Largest median relative error that can be due to rounding, by the coarser dtype of file and model. Passes of SmolLM2 135M in bfloat16
differ from one in float32 by 0.004 (first layer) to 0.011 (last), in float16 by 0.0005 to 0.0014; two passes that round differently
differ by about 1.4 times that, and deeper models by more. TensorFloat-32 has the precision of float16."""

_FAR = 4
"""A token is far off from this multiple of the limit on. At single positions the error is larger: up to 0.084 in bfloat16 at a first
position whose norm a layer has just multiplied."""

_FAR_SHARE = 0.1
"""Largest share of tokens that may be far off. In a mixture of experts, rounding sends some tokens to another expert."""

_BETTER = 0.5
"""Something else is a better match if its error is below this multiple of the error of the hookpoint."""

_SMALL = 0.5
"""Errors up to this multiple of what the models differ by are small."""

_FLOOR = 1e-5
"""Errors up to here are rounding in float32, which tells no places apart."""

_COMPARED_DOCUMENTS, _COMPARED_TOKENS = 4, 64
"""Documents, and their first tokens, on which other places are tried."""


class Fidelity(NamedTuple):
    """How the files of one model differ from its own forward pass: norms of differences, relative to the model's."""

    relative_error: float
    """Median over all tokens of the sample."""
    first_position: float
    """Median over the first tokens of its documents."""
    last_position: float
    """Median over the last tokens of its documents."""
    far_share: float
    """Share of the tokens that are far off."""
    norm_ratio: float
    """Median over tokens of the norm in the file, relative to the model's."""
    limit: float
    """Largest accepted `relative_error`."""

    def accepted(self) -> bool:
        """Whether it can be due to rounding. NaN cannot."""
        ends = max(self.first_position, self.last_position)
        return (
            self.relative_error <= self.limit and ends <= _FAR * self.limit and self.far_share <= _FAR_SHARE
        )


class _Compared(NamedTuple):
    """Some documents: what the files hold, and what the model computes. Documents are contiguous, their tokens in order."""

    given: Float[Tensor, "token d_model"]
    own: Float[Tensor, "token d_model"]
    first: Bool[Tensor, " token"]
    last: Bool[Tensor, " token"]


def check_fidelity(
    pair: ModelPair, documents: Documents, outside: OutsideActivations, batch_tokens: int
) -> dict[str, Any]:
    """Compare a sample of the files with the models' own forward pass.

    Returns:
        As JSON: `models` has the figures of each model by name. `difference` is the median over tokens of the norm of what reference and intervened
        model differ by in the files, relative to the reference's, and `largest_error` the error up to which it stands out; both are
        None where the two cannot be subtracted.

    Raises:
        DataError: The files of a model do not hold its activations at the hookpoint; the message says what they hold, if that is found.
    """
    found = {}
    compared = [[] for _ in pair.models]
    for batch in pack(outside.sample, documents.read_lengths, batch_tokens):
        inputs = model_inputs(pair, documents, batch)
        outputs = read_activations(pair, inputs)
        for model, (one, output) in enumerate(zip(inputs, outputs, strict=True)):
            given = [outside.files[model].activations(int(document), slice(None)) for document in batch]
            compared[model].append(_compare(given, output, one.attention))
    for model, name in enumerate(pair.model_names):
        whole = _Compared(*(torch.cat(parts) for parts in zip(*compared[model], strict=True)))
        fidelity = _measure(whole, outside.files[model].dtype)
        better = _better_match(pair, documents, outside, model, fidelity.limit)
        if better is not None or not fidelity.accepted():
            raise DataError(
                f"{outside.files[model].folder}: not the activations of the {name} model at {pair.hookpoints[model]}: "
                f"{better or _cause(fidelity)}; {_figures(fidelity, len(whole.own), len(outside.sample))}"
            )
        logger.info(
            "harvest: files of the %s model: %s",
            name,
            _figures(fidelity, len(whole.own), len(outside.sample)),
        )
        found[name] = fidelity._asdict()
    difference = _difference(documents, outside)
    largest = None if difference is None or pair.identical else _SMALL * difference
    _warn_of_errors(found, difference, largest)
    return {"models": found, "difference": difference, "largest_error": largest}


def _compare(
    given: list[Float[Tensor, "_ d_model"]],
    output: Float[Tensor, "document token d_model"],
    attention: Bool[Tensor, "document token"],
) -> _Compared:
    own = output[attention.to(output.device)].cpu()
    lengths = torch.tensor([len(one) for one in given])
    ends = lengths.cumsum(dim=0)
    first, last = torch.zeros(2, len(own), dtype=torch.bool)
    first[ends - lengths], last[ends - 1] = True, True
    return _Compared(torch.cat(given), own, first, last)


def _measure(compared: _Compared, dtype: torch.dtype) -> Fidelity:
    coarser = max(dtype, compared.own.dtype, key=lambda one: torch.finfo(one).eps)
    limit = _LIMITS.get(coarser, _LIMITS[torch.float32])
    errors = _errors(compared.given, compared.own)
    ratio = compared.given.float().norm(dim=1) / compared.own.float().norm(dim=1).clamp_min(1e-12)
    return Fidelity(
        relative_error=float(errors.median()),
        first_position=float(errors[compared.first].median()),
        last_position=float(errors[compared.last].median()),
        far_share=float((~(errors <= _FAR * limit)).float().mean()),
        norm_ratio=float(ratio.median()),
        limit=limit,
    )


def _errors(
    given: Float[Tensor, "token d_model"], own: Float[Tensor, "token d_model"]
) -> Float[Tensor, " token"]:
    """Norm of each token's difference, relative to the norm of `own`."""
    own = own.float()
    return (given.float() - own).norm(dim=1) / own.norm(dim=1).clamp_min(1e-12)


def _figures(fidelity: Fidelity, n_tokens: int, n_documents: int) -> str:
    return (
        f"relative error {fidelity.relative_error:.2g} over {n_tokens:,} tokens of {n_documents} documents (at most {fidelity.limit:g}), "
        f"{fidelity.first_position:.2g} at first positions, {fidelity.last_position:.2g} at last positions, {fidelity.far_share:.1%} of "
        f"the tokens far off, norm {fidelity.norm_ratio:.3g} times the model's"
    )


def _cause(fidelity: Fidelity) -> str:
    """Say what the most likely cause is, if no other place of the model matches."""
    accepted = _FAR * fidelity.limit
    if fidelity.relative_error <= fidelity.limit and not fidelity.last_position <= accepted:
        return "the last tokens differ; let the server return the hidden states of the whole prompt"
    if fidelity.relative_error <= fidelity.limit and not fidelity.first_position <= accepted:
        return "the first tokens differ; give the server the token ids, and let it add none"
    if fidelity.relative_error <= fidelity.limit:
        return "many tokens differ; switch chunked prefill and prefix caching off"
    return "no layer of the model matches; use the same weights, without quantization and before any norm, and switch chunked prefill off"


def _better_match(
    pair: ModelPair, documents: Documents, outside: OutsideActivations, model: int, limit: float
) -> str | None:
    """Say what else the files of one model match, and better than its hookpoint; None if nothing does."""
    chosen = outside.sample[:_COMPARED_DOCUMENTS]
    inputs = tuple(
        ModelInputs(*(part[:, :_COMPARED_TOKENS] for part in one))
        for one in model_inputs(pair, documents, chosen)
    )
    outputs = read_activations(pair, inputs)
    given = torch.cat(
        [outside.files[model].activations(int(document), slice(0, _COMPARED_TOKENS)) for document in chosen]
    )
    mask = inputs[model].attention

    def error(values: Float[Tensor, "document token _"]) -> float:
        return float(_errors(given, values[mask.to(values.device)].cpu()).median())

    here = error(outputs[model])
    candidates = {
        what: error(values)
        for what, values in _elsewhere(pair, documents, inputs, outputs, model)
        if values.shape[-1] == given.shape[-1]
    }
    what = min(candidates, key=lambda one: candidates[one], default=None)
    if (
        what is None
        or here <= _FLOOR
        or not candidates[what] <= limit
        or not candidates[what] < _BETTER * here
    ):
        return None
    layer, remedy = pair.layer(model), ""
    if layer is not None and "decoder layer" in what:
        remedy = f"; what is read there is the output of decoder layer {layer}, layer id {layer + 1} of vLLM"
    return f"they match {what} (relative error {candidates[what]:.2g} on {len(given)} tokens){remedy}"


def _elsewhere(
    pair: ModelPair,
    documents: Documents,
    inputs: tuple[ModelInputs, ...],
    outputs: tuple[Float[Tensor, "document token _"], ...],
    model: int,
) -> Iterator[tuple[str, Float[Tensor, "document token _"]]]:
    """Yield what the files of one model may hold in place of its activations at the hookpoint."""
    for other, name in enumerate(pair.model_names):
        if other != model and documents.alignment is None:
            yield f"those of the {name} model", outputs[other]
    for shift, way in ((1, "late"), (-1, "early")):
        yield f"the hookpoint if every token comes one {way}", outputs[model].roll(shift, dims=1)
    states = pair.full_pass(inputs[model].token_ids, inputs[model].attention, model).states
    if states is None:
        return
    layer = pair.layer(model)
    for index, state in enumerate(states):
        if layer is None or index != layer + 1:
            what = f"the output of decoder layer {index - 1}" if index else "the input of decoder layer 0"
            yield what, state
    try:
        norm = pair.final_norm(model)
    except PairError:
        return  # a model without one
    with pair.switched(model), torch.no_grad():
        yield "the output of the final norm, after the last decoder layer", norm(states[-1])


def _difference(documents: Documents, outside: OutsideActivations) -> float | None:
    """Return what the files of both models differ by beyond the first position, whose norm may be extreme; None if they cannot be subtracted."""
    if documents.alignment is not None or outside.files[0].d_model != outside.files[1].d_model:
        return None
    reference, intervened = (
        torch.cat([one.activations(int(document), slice(1, None)) for document in outside.sample])
        for one in outside.files[:2]
    )
    return float(_errors(intervened, reference).median()) if len(reference) else None


def _warn_of_errors(
    found: dict[str, dict[str, float]], difference: float | None, largest: float | None
) -> None:
    """Warn where errors are of the size of what the models differ by, since a dictionary cannot tell one from the other."""
    error = max(figures["relative_error"] for figures in found.values())
    if largest is not None and error > largest:
        logger.warning(
            "harvest: files differ from the models' own pass by %.2g, and the models from each other by %.2g: part of the difference may be "
            "how the activations were computed; compute those of all models by one program in one way, in a finer dtype if possible",
            error,
            difference,
        )
