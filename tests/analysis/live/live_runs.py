"""Runs on tiny models, with the session of the live page and the harvested documents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.live.requests import TextRequest
from analysis.live.session import Session
from crosscoder.activations.shards import DOCUMENTS, ShardReader
from crosscoder.config import RunConfig
from crosscoder.dictionary.views import View
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents
from crosscoder.text.text_files import Text, read_texts
from tests.analysis.pair_run import N_LATENTS, make_pair_run
from tests.tiny_pairs import save_adapter, save_llama


@dataclass
class LiveRun:
    config: RunConfig
    folder: RunFolder
    session: Session
    documents: Documents

    def requests(self) -> dict[int, TextRequest]:
        """Return every held-out document as a request."""
        assert self.config.text is not None
        texts = [text for source in self.config.text.sources for text in read_texts(source)]
        return {int(document): typed(texts[document]) for document in self.documents.split(held_out=True)}

    def harvested(self, document: int) -> tuple[np.ndarray, Tensor]:
        """Return stored positions and activations of one held-out document."""
        reader = ShardReader(self.folder.activations, "held_out")
        batch = reader.gather(torch.arange(reader.n_tokens))
        own = batch.document == document
        return batch.position[own].numpy(), batch.values[own]


def typed(text: Text) -> TextRequest:
    if text.messages is None:
        return TextRequest(text=text.content)
    return TextRequest.model_validate({"messages": list(text.messages)})


def make_live_run(folder: Path, kind: str = "adapter", reads: View = "paired") -> LiveRun:
    """`kind`: adapter, context, tokenizer (models differ in it), width (models differ in it) or tuned."""
    base = save_llama(folder / "base")
    more: dict[str, Any] = {}
    intervened: Path | dict[str, Any]
    match kind:
        case "adapter":
            intervened = {"adapter": str(save_adapter(base, folder / "adapter"))}
        case "context":
            intervened = {"context": "amber birch cedar"}
        case "tokenizer":
            intervened, more = save_llama(folder / "words", seed=1, words=True), {"align": "characters"}
        case "width":
            intervened = save_llama(folder / "wide", seed=1, width=24)
        case _:
            intervened = save_llama(folder / "tuned", seed=1)
    config, run = make_pair_run(folder, reads, intervened, base, **more)
    documents = Documents.load(run.activations / DOCUMENTS)
    return LiveRun(config, run, Session.load(run, config), documents)


def dense(found: dict[str, Any], name: str = "value") -> np.ndarray:
    """Return firings as a dense array [token, latent]."""
    fired = found["fired"]
    whole = np.zeros((len(found["tokens"]), N_LATENTS))
    whole[fired["token"], fired["latent"]] = fired[name]
    return whole
