"""Load the tokenizers of a pair, and choose the chat template of each model."""

import logging
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..config import AdapterSource, ContextSource, ModelSource, PairConfig
from ..text.token_alignment import TextReader
from ..text.tokenizer_rules import compare_tokenizers, same_tokenizer
from .context import Context
from .loading import adapter_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


class TextInputs(NamedTuple):
    """How text becomes the token ids that the models of a pair read. A `ModelPair` has the same attributes."""

    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None
    readers: tuple[TextReader, TextReader] | None
    """Tokenizer and chat template of both models, if the tokenizers differ."""
    context: Context | None
    """What the intervened model reads before every document."""


def load_text_inputs(config: PairConfig) -> TextInputs:
    """Load the tokenizers of a pair; no weights are read.

    Raises:
        PairError: A tokenizer cannot be loaded, the tokenizers differ and `pair.align` is none, or the context has no tokens.
    """
    tokenizer, other = load_tokenizers(config)
    match config.intervened:
        case AdapterSource(adapter=name) | ModelSource(model=name):
            names = config.reference.model, name
        case ContextSource():
            names = config.reference.model, config.reference.model
    readers = text_readers(config, (tokenizer, other), names)
    chat_template = shared_template(tokenizer, other) if readers is None else readers[0].chat_template
    context = (
        Context.encode(config.intervened, tokenizer, chat_template)
        if isinstance(config.intervened, ContextSource)
        else None
    )
    _check_snapshots(config, tokenizer)
    return TextInputs(tokenizer, chat_template, readers, context)


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


def _check_snapshots(config: PairConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that every snapshot has the tokenizer of the reference, if it has one of its own. Raises PairError if not."""
    known: list[object] = [config.reference, config.intervened]
    for index, source in enumerate(config.snapshots):
        setting = f"pair.snapshots.{index}"
        if source in known:
            continue
        known.append(source)
        if isinstance(source, AdapterSource):
            other, where = adapter_tokenizer(source.adapter, f"{setting}.adapter"), source.adapter
        else:
            other, where = (
                load_tokenizer(f"{setting}.model", source.model, source.revision, source),
                source.model,
            )
        if other is not None:
            compare_tokenizers(tokenizer, other, (config.reference.model, where))
