"""Load the tokenizers of a pair, and choose the chat template of each model."""

import logging

from transformers import PreTrainedTokenizerBase

from ..config import AdapterSource, ModelSource, PairConfig
from ..text.token_alignment import TextReader
from ..text.tokenizer_rules import compare_tokenizers, same_tokenizer
from .loading import adapter_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


def load_reference_tokenizer(config: PairConfig) -> PreTrainedTokenizerBase:
    """Load the reference's tokenizer. Raises PairError if it cannot be loaded."""
    reference = config.reference
    return load_tokenizer("pair.reference.model", reference.model, reference.revision, reference)


def load_tokenizers(config: PairConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Load the tokenizers of reference and intervened model: the same object if the intervened model has no separate one.

    Raises:
        PairError: A tokenizer cannot be loaded.
    """
    reference = load_reference_tokenizer(config)
    match config.intervened:
        case AdapterSource(adapter=adapter):
            return reference, adapter_tokenizer(adapter) or reference
        case ModelSource() as intervened if intervened != config.reference:
            return reference, load_tokenizer(
                "pair.intervened.model", intervened.model, intervened.revision, intervened
            )
        case _:
            return reference, reference


def text_readers(
    config: PairConfig,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    names: tuple[str, str],
) -> tuple[TextReader, TextReader] | None:
    """Return tokenizer and chat template of each model, if the tokenizers differ and are to be aligned; None for one tokenizer.

    A model without a chat template uses the other model's.

    Raises:
        PairError: The tokenizers differ and `pair.align` is none.
    """
    reference, intervened = tokenizers
    if intervened is reference:
        return None
    if config.align == "none":
        remedy = "give two models with one tokenizer"
        if isinstance(config.intervened, ModelSource) and not config.snapshots:
            remedy += ", or set pair.align to characters"
        compare_tokenizers(reference, intervened, names, remedy)
        return None
    if same_tokenizer(reference, intervened):
        logger.info("pair.align has no effect: both models have the same tokenizer")
        return None
    templates = _template(reference), _template(intervened)
    return (
        TextReader(reference, templates[0] or templates[1], names[0]),
        TextReader(intervened, templates[1] or templates[0], names[1]),
    )


def shared_template(reference: PreTrainedTokenizerBase, intervened: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template for both models."""
    templates = _template(reference), _template(intervened)
    if None not in templates and templates[0] != templates[1]:
        logger.warning(
            "the two models have different chat templates; the intervened model's is used for both"
        )
    return templates[1] or templates[0]


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the chat template; of several named ones, the one named `default`."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
