"""What a stage needs before it can begin: its models, its documents, its threads."""

import shlex

import torch

from crosscoder.config import RunConfig, TextConfig
from crosscoder.config.text import ANSWERS
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.tokenizers import TextInputs
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.text_files import pinned
from crosscoder.text.transcripts import read_transcripts


def read_inputs(folder: RunFolder, config: RunConfig) -> tuple[ModelPair, Documents]:
    """Load the pair of a run and its documents. Raises ConfigError if answers join them, but `discover` has not asked for any yet."""
    assert config.pair is not None and config.text is not None
    require_answers(folder, config.text)
    pair = load_pair(config.pair)
    return pair, read_documents(folder, config, pair)


def require_answers(folder: RunFolder, text: TextConfig) -> None:
    """Raise ConfigError if answers join the text, but the run has none."""
    if text.answers and not folder.transcripts.is_file():
        first = shlex.join(["crosscoder", "discover", str(folder.path)])
        raise ConfigError(
            f"text.answers: {folder.transcripts} is missing, so no answers can join the text; run `{first}` first (`crosscoder run` does it by "
            "itself), or remove text.answers"
        )


def read_documents(
    folder: RunFolder, config: RunConfig, pair: ModelPair | TextInputs, *, joining: bool = True
) -> Documents:
    """Read and tokenize the text of a run; `joining`: with the answers that join it, if the settings say so. Raises DataError if their file
    is damaged, otherwise as `tokenize`."""
    assert config.text is not None
    answers = [read_transcripts(folder.transcripts)] if config.text.answers and joining else []
    text = pinned_text(config.text, folder)
    return tokenize(
        text, config.tokens, pair.tokenizer, pair.chat_template, config.seed, pair.readers, answers
    )


def describe_texts(documents: Documents, config: RunConfig) -> list[str]:
    """Return lines that say what each source holds, and how much of it is masked."""
    lines = []
    for index, name in enumerate(documents.source_names):
        in_source = documents.source == index
        train, held_out = in_source & ~documents.held_out, in_source & documents.held_out
        lines.append(
            f"{name:<11} {int(in_source.sum()):,} documents; tokens {int(documents.unmasked[train].sum()):,} to train on, "
            f"{int(documents.unmasked[held_out].sum()):,} held out"
        )
    if config.text is not None and config.text.answers and ANSWERS not in documents.source_names:
        n_asked = config.discovery.prompts
        lines.append(
            f"{ANSWERS:<11} about {n_asked:,} documents once discover has asked for them; not counted here"
        )
    share = documents.template[~documents.masked].mean()
    return [
        *lines,
        f"{documents.masked.mean():.1%} of the tokens are masked by the token policy; "
        f"{share:.1%} of the unmasked tokens belong to the chat template",
    ]


def pinned_text(text: TextConfig, folder: RunFolder) -> TextConfig:
    """Return settings that read datasets at the revisions that the run has recorded."""
    return pinned(text, folder.read_manifest().get("data"))


def set_threads(config: RunConfig) -> None:
    """Let torch use as many threads as the settings say, if they do."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
