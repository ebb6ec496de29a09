"""In which tokenizer and chat template each model of a pair reads its texts."""

import logging

from transformers import PreTrainedTokenizerBase

from ..config import ModelSource, PairConfig
from ..text.token_alignment import TextReader
from .loading import compare_tokenizers, same_tokenizer

logger = logging.getLogger(__name__)


def own_readers(
    config: PairConfig,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    names: tuple[str, str],
) -> tuple[TextReader, TextReader] | None:
    """Each model's way to read text where the tokenizers differ and the settings say how they are aligned; None for one tokenizer.

    Each reads chats in its own template; where it has none, in the other's.

    Raises:
        PairError: The tokenizers differ, and nothing is to be aligned.
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
        logger.info("pair.align has no effect: the two models have one tokenizer")
        return None
    templates = _template(reference), _template(intervened)
    return (
        TextReader(reference, templates[0] or templates[1], names[0]),
        TextReader(intervened, templates[1] or templates[0], names[1]),
    )


def shared_template(reference: PreTrainedTokenizerBase, intervened: PreTrainedTokenizerBase) -> str | None:
    """The chat template that both models read chats in."""
    templates = _template(reference), _template(intervened)
    if None not in templates and templates[0] != templates[1]:
        logger.warning(
            "the two models have different chat templates; both read chats in the intervened model's"
        )
    return templates[1] or templates[0]


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template; of several named ones, the one called default."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
