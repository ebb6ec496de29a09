"""What a stage needs before it can begin: its models, its documents, its threads."""

import torch

from crosscoder.config import RunConfig, TextConfig
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.text_files import pinned


def read_inputs(folder: RunFolder, config: RunConfig) -> tuple[ModelPair, Documents]:
    """Load the pair of a run and its documents."""
    assert config.pair is not None and config.text is not None
    pair = load_pair(config.pair)
    text = pinned_text(config.text, folder)
    return pair, tokenize(text, config.tokens, pair.tokenizer, pair.chat_template, config.seed, pair.readers)


def pinned_text(text: TextConfig, folder: RunFolder) -> TextConfig:
    """Return settings that read datasets at the revisions that the run has recorded."""
    return pinned(text, folder.read_manifest().get("data"))


def set_threads(config: RunConfig) -> None:
    """Let torch use as many threads as the settings say, if they do."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
