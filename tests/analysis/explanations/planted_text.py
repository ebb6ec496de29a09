"""Documents of random words, and a dictionary whose latents fire on planted triggers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.token_context import DocumentContext
from crosscoder.activations.batch import ActivationBatch
from crosscoder.activations.shards import DOCUMENTS, Manifest, ShardWriter, SplitRecord
from crosscoder.config import CrosscoderConfig, ReLU, RunConfig
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.language_models.loading import load_tokenizer
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents
from tests.tiny_pairs import WORDS, save_word_tokenizer

N_DOCUMENTS, LENGTH = 240, 30
FIRST = 5
"""Id of the first word; every word is one token."""

TRIGGER, BEFORE = 9, 14
"""Token ids: latent 0 fires on TRIGGER and TRIGGER + 1, latent 1 on the token after BEFORE."""

LATENTS = ("token", "previous", "chat", "random", "seldom", "always")
"""Names of the latents by what they fire on."""


def planted_documents() -> Documents:
    random = np.random.default_rng(0)
    total = N_DOCUMENTS * LENGTH
    source = (np.arange(N_DOCUMENTS) % 3 == 0).astype(np.int16)
    return Documents(
        token_ids=random.integers(FIRST, FIRST + len(WORDS), total).astype(np.int32),
        offsets=np.arange(N_DOCUMENTS + 1, dtype=np.int64) * LENGTH,
        source=source,
        held_out=np.ones(N_DOCUMENTS, dtype=bool),
        template=np.tile(np.arange(LENGTH) < 3, N_DOCUMENTS) & (source == 1).repeat(LENGTH),
        masked=np.tile(np.arange(LENGTH) < 1, N_DOCUMENTS),
        source_names=("prose", "chat"),
    )


class PlantedReader:
    """A reader of every unmasked token, whose activations are the planted firings, doubled in the intervened model."""

    d_models = (len(LATENTS), len(LATENTS))

    def __init__(self, documents: Documents) -> None:
        place = np.flatnonzero(~documents.masked)
        self.document = torch.from_numpy(place // LENGTH)
        self.position = torch.from_numpy(place % LENGTH)
        self.n_tokens = len(place)
        random = np.random.default_rng(1)
        token, before = documents.token_ids[place], documents.token_ids[place - 1]
        fires = np.stack(
            [
                np.isin(token, (TRIGGER, TRIGGER + 1)),
                before == BEFORE,
                documents.source[place // LENGTH] == 1,
                random.random(len(place)) < 0.03,
                np.isin(place // LENGTH, (5, 77)) & (token < FIRST + 3),
                np.ones(len(place), dtype=bool),
            ],
            axis=1,
        )
        self.values = torch.from_numpy(fires * random.uniform(1, 4, fires.shape)).float().repeat(1, 2)
        self.values[:, len(LATENTS) :] *= 2

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        return self.document.numpy()

    def gather(self, rows: Tensor) -> ActivationBatch:
        return ActivationBatch(self.values[rows], self.document[rows], self.position[rows])

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        for start in range(0, self.n_tokens, size):
            yield self.gather(torch.arange(start, min(start + size, self.n_tokens)))


def planted_view() -> DictionaryView:
    """A view in which latent j reads and writes coordinate j of both models, doubled in the intervened one."""
    n = len(LATENTS)
    config = CrosscoderConfig(
        d_models=(n, n), model_names=model_names(2), n_latents=n, sparsity=ReLU(target_l0=2)
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_enc.copy_(torch.cat([torch.eye(n), torch.zeros(n, n)]))
        crosscoder.W_dec.copy_(torch.cat([torch.eye(n), 2 * torch.eye(n)], dim=1))
        for part in (crosscoder.b_enc, crosscoder.b_dec):
            part.zero_()
    return view_of(crosscoder.eval(), (n, n), "paired")


def planted_context(folder: Path) -> DocumentContext:
    save_word_tokenizer(folder)
    return DocumentContext(planted_documents(), load_tokenizer("pair.reference.model", str(folder), None))


def planted_run(path: Path) -> tuple[RunFolder, RunConfig]:
    """Create a finished run without a model: activations, dictionary and the columns of the table that `explain` reads."""
    save_word_tokenizer(path / "model")
    settings: dict[str, Any] = {
        "output": str(path / "run"),
        "pair": {
            "reference": {"model": str(path / "model")},
            "intervened": {"model": "b"},
            "hookpoint": "h",
        },
        "text": {"sources": [{"path": "t.jsonl", "name": "t"}]},
    }
    config = RunConfig.model_validate(settings)
    folder = RunFolder.create(config.output, config)
    view, documents = planted_view(), planted_documents()
    save_crosscoder(view.crosscoder, folder.crosscoder)
    documents.save(folder.activations / DOCUMENTS)
    reader = PlantedReader(documents)
    manifest = Manifest(
        identity={}, dtype="float32", d_models=reader.d_models, documents_digest="", median_norms=(1, 1), max_norms=(9, 9),
        sides={"held_out": SplitRecord(n_planned=1)},
    )  # fmt: skip
    ShardWriter(folder.activations, manifest).write(
        "held_out", reader.values, reader.document, reader.position, 0
    )
    folder.analysis.mkdir()
    n_tokens = (reader.values[:, : len(LATENTS)] > 0).sum(dim=0).tolist()
    pd.DataFrame(
        {
            "latent": range(len(LATENTS)), "label": ["new", "rotated", "shared", "shared", "new", "shared"],
            "shift_share": [0.5, 0.25, 0.1, 0.05, 0.4, 0.0], "n_tokens": n_tokens,
        }
    ).to_parquet(folder.features)  # fmt: skip
    return folder, config
