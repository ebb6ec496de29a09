"""A trained run, opened for analysis: its held-out tokens, dictionary, tokenizers and models.

Every verb that analyzes a run loads them here. Each part is loaded on first use.
"""

from functools import cached_property
from typing import NamedTuple

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.shard_store import open_shards
from crosscoder.activations.shards import DOCUMENTS
from crosscoder.activations.user_files import FileSplits, open_files
from crosscoder.config import FileActivations, PairConfig, RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.tokenizers import load_reference_tokenizer, load_tokenizers
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.device import sparse_device
from crosscoder.text.documents import Documents

from .dictionary_view import DictionaryView, linear_map_of, view_of
from .models_of_run import check_models
from .token_context import DocumentContext, RowContext, TokenContext


class RunModels(NamedTuple):
    """Both models of a run, and its dictionary."""

    pair: ModelPair
    view: DictionaryView


class TrainedRun:
    """A run folder with its settings. Every part raises FormatError, ConfigError or PairError if it cannot be loaded."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        folder.use_date()
        self._views: dict[tuple[int, ...], DictionaryView] = {}

    @property
    def has_text(self) -> bool:
        """Whether the tokens behind the activations are known; false if the activations came from a user's files."""
        return not isinstance(self.config.activations, FileActivations)

    @property
    def has_models(self) -> bool:
        """Whether the models can be run."""
        return self.config.pair is not None and self.has_text

    def require_models(self, purpose: str) -> None:
        """Raise ConfigError if the run has no models, which `purpose` requires."""
        if not self.has_models:
            raise ConfigError(
                f"{self.folder.path}: its activations came from files, but {purpose} needs the models themselves; make a run with a pair"
            )

    @cached_property
    def reader(self) -> ActivationReader:
        """The held-out tokens."""
        if not self.has_text:
            return self._files.held_out
        return open_shards(self.config.activations, self.folder.activations, "held_out")

    @cached_property
    def documents(self) -> Documents:
        """The texts that both models read; only for runs with text."""
        return Documents.load(self.folder.activations / DOCUMENTS)

    @property
    def context(self) -> TokenContext:
        """Context of each token."""
        return self.document_context if self.has_text else self._row_context

    @cached_property
    def document_context(self) -> DocumentContext:
        """Context of each token; only for runs with text."""
        aligned = self.documents.alignment is not None
        # If the models are loaded, their tokenizers are not loaded again.
        pair: ModelPair | None = vars(self).get("pair")
        if pair is not None:
            tokenizers = [pair.tokenizer_of(model) for model in range(1 + aligned)]
        elif aligned:
            tokenizers = load_tokenizers(self._pair_config)
        else:
            tokenizers = [load_reference_tokenizer(self._pair_config)]
        return DocumentContext(self.documents, *tokenizers)

    @cached_property
    def _row_context(self) -> RowContext:
        return RowContext(self._files.document)

    @cached_property
    def pair(self) -> ModelPair:
        """Both models; only for runs with models. Raises PairError if they have changed since the run was made."""
        pair = load_pair(self._pair_config)
        check_models(self.folder, pair)
        return pair

    @cached_property
    def crosscoder(self) -> Crosscoder:
        """The dictionary, on the device of its training."""
        device = sparse_device("training.device", self.config.training.device)
        return load_crosscoder(self.folder.crosscoder, device)

    @cached_property
    def view(self) -> DictionaryView:
        """The view of the held-out tokens through the dictionary."""
        return self._view(self.reader.d_models)

    @cached_property
    def models(self) -> RunModels:
        """Both models, and their view through the dictionary; needs no activations on disk."""
        return RunModels(self.pair, self._view(self.pair.d_models))

    @cached_property
    def _files(self) -> FileSplits:
        assert isinstance(self.config.activations, FileActivations)
        return open_files(self.config.activations, self.config.seed, check=False)

    @property
    def _pair_config(self) -> PairConfig:
        assert self.config.pair is not None  # guaranteed by RunConfig
        return self.config.pair

    def _view(self, d_models: tuple[int, ...]) -> DictionaryView:
        if d_models not in self._views:
            reads = self.config.crosscoder.reads
            self._views[d_models] = view_of(self.crosscoder, d_models, reads, linear_map_of(self.folder))
        return self._views[d_models]
