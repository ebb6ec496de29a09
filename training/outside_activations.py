"""Activations that another program computed, such as an inference server: the token ids that it needs, and the files that it writes.

FOLDER/reference/*.safetensors      one file for each document (`activations.document_files`)
FOLDER/intervened/*.safetensors
FOLDER/snapshot_1/*.safetensors     if the pair has snapshots
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crosscoder.activations.document_files import DocumentFiles, require_files
from crosscoder.config import RunConfig
from crosscoder.config.model_names import model_names
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.tokenizers import TextInputs, load_text_inputs
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.digests import digest_of_parts
from crosscoder.runtime.files import atomic_file, make_folder
from crosscoder.text.documents import Documents

from .extraction import Batch, Rows
from .inputs import read_documents, require_answers

logger = logging.getLogger(__name__)

CHECKED_DOCUMENTS = 16
"""Documents that are compared with the toolkit's own forward pass."""

_CHECK_STREAM = 10
"""First entry of the seed of their draw (`extraction` lists the others)."""


class FilesRequest(NamedTuple):
    """What the command line says of activations from outside."""

    folder: Path
    layer: int | None
    """Which of several layers in a file to read, counted from 0."""


class OutsideActivations:
    """The files of all models, in the order of the model axis."""

    def __init__(self, files: Sequence[DocumentFiles], documents: Documents, seed: int) -> None:
        self.files = tuple(files)
        self.sample = _sample(documents, seed)
        """The documents that are compared with the toolkit's own forward pass; the longest is among them."""
        self._digest: str | None = None

    def read(self, pair: ModelPair, documents: Documents, batch: Batch) -> Rows:
        """Return what the models would compute at the unmasked tokens of a batch.

        Raises:
            DataError: Activations are NaN or infinite.
        """
        parts = [
            torch.cat(
                [one.activations(int(index), documents.compared_tokens(index, model)) for index in batch]
            )
            for model, one in enumerate(self.files)
        ]
        kept = [np.flatnonzero(documents.compared_tokens(index)) for index in batch]
        document = np.repeat(np.arange(len(batch)), [len(places) for places in kept])
        return Rows(parts, torch.from_numpy(document), torch.from_numpy(np.concatenate(kept)))

    def identity(self) -> dict[str, Any]:
        """Return what tells these files from those of another extraction: a digest of the activations of the sample."""
        if self._digest is None:
            digest = digest_of_parts()
            for one in self.files:
                for document in self.sample.tolist():
                    values = one.activations(document, slice(None))
                    digest.update(f"{one.model} {document} {values.dtype} {tuple(values.shape)} ".encode())
                    digest.update(_bytes(values))
            self._digest = digest.hexdigest()
        return {"sample": self._digest}


def check_folders(config: RunConfig, request: FilesRequest) -> None:
    """Check, before anything is loaded, that there are files of each model. Raises ConfigError otherwise."""
    assert config.pair is not None
    for name in model_names(len(config.pair.sources)):
        require_files(request.folder / name)


def open_outside(
    folder: RunFolder, config: RunConfig, request: FilesRequest
) -> tuple[ModelPair, Documents, OutsideActivations]:
    """Read the documents of a run, find the files of each, and load the pair that they are compared with.

    Raises:
        ConfigError, FormatError, DataError: See `DocumentFiles`, `read_documents` and `load_pair`; or the files have another width than the
            models.
    """
    assert config.pair is not None
    _ = config.pair.hookpoints  # refused before any long work, if it is open
    # Files are found before the weights are loaded, since more often one is missing.
    documents, texts = read_texts(folder, config)
    files = [
        DocumentFiles(
            request.folder / name,
            name,
            token_ids(documents, texts, model),
            request.layer,
            len(_context(texts, model)),
        )
        for model, name in enumerate(model_names(len(config.pair.sources)))
    ]
    for one in files:
        if one.n_unknown:
            logger.warning(
                "harvest: %d files in %s are left out, because their token ids are those of no document",
                one.n_unknown,
                one.folder,
            )
    pair = load_pair(config.pair, texts=texts)
    for one, d_model, hookpoint in zip(files, pair.d_models, pair.hookpoints, strict=True):
        if one.d_model != d_model:
            raise DataError(
                f"{one.folder}: activations are {one.d_model} wide, but the {one.model} model is {d_model} wide at {hookpoint}; give "
                "files of that model and place"
            )
    return pair, documents, OutsideActivations(files, documents, config.seed)


def read_texts(folder: RunFolder, config: RunConfig) -> tuple[Documents, TextInputs]:
    """Read and tokenize the text of a run, without the weights of its models.

    Raises: See `read_documents` and `load_text_inputs`.
    """
    assert config.pair is not None and config.text is not None
    require_answers(folder, config.text)
    texts = load_text_inputs(config.pair)
    return read_documents(folder, config, texts), texts


def token_ids(documents: Documents, texts: TextInputs, model: int) -> dict[int, Int[np.ndarray, " token"]]:
    """Return the token ids that one model reads for each document that has unmasked tokens, after the context if there is one."""
    before = _context(texts, model)
    return {
        int(document): np.concatenate([before, documents.tokens_of(document, model)])
        for document in np.flatnonzero(documents.unmasked)
    }


def write_token_ids(
    folder: Path, documents: Documents, texts: TextInputs, n_models: int
) -> dict[tuple[str, ...], Path]:
    """Write the token ids that another program has to read, a line `{"document": 0, "token_ids": [...]}` for each document.

    Documents without unmasked tokens, and those with the tokens of an earlier one, need no activations and have no line.

    Returns:
        The files, each with the models that read it: one for all models, unless tokenizers differ or one reads a context.
    """
    make_folder(folder, "--token-ids")
    names = model_names(n_models)
    shared = documents.alignment is None and texts.context is None
    files = (
        {names: folder / "token_ids.jsonl"}
        if shared
        else {(name,): folder / f"{name}.jsonl" for name in names}
    )
    for (first, *_), path in files.items():
        rows, seen = token_ids(documents, texts, names.index(first)), set()
        with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
            for document, row in rows.items():
                if (content := row.tobytes()) not in seen:
                    seen.add(content)
                    file.write(json.dumps({"document": document, "token_ids": row.tolist()}) + "\n")
    return files


def _context(texts: TextInputs, model: int) -> Int[np.ndarray, " token"]:
    """Return the token ids that a model reads before every document."""
    if model != 1 or texts.context is None:
        return np.zeros(0, dtype=np.int64)
    return texts.context.token_ids.numpy()


def _sample(documents: Documents, seed: int) -> Batch:
    """Draw documents, with the longest among them."""
    order = np.random.default_rng([seed, _CHECK_STREAM]).permutation(np.flatnonzero(documents.unmasked))
    longest = order[int(np.argmax(documents.read_lengths[order]))]
    others = order[order != longest][: CHECKED_DOCUMENTS - 1]
    return np.sort(np.append(others, longest))


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(torch.uint8).numpy().data
