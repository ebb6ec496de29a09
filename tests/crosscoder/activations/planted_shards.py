"""Made-up activations in a run folder or at a URL, without models: every token has values of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosscoder.activations import part_records
from crosscoder.activations.shard_store import ShardStore, StoreWriter
from crosscoder.activations.shards import DOCUMENTS, Manifest, ShardWriter, Split, SplitRecord
from crosscoder.config import StoreConfig
from crosscoder.runtime.parts import Part
from crosscoder.text.documents import Documents

ROWS = {"held_out": (6, 5), "train": (20, 1, 17, 20, 12, 9, 20, 3, 20, 14)}
"""Rows of each shard."""

PER_DOCUMENT = 4
"""Tokens of a document; the last one of a shard may have fewer."""

D_MODELS = (3, 2)

WHOLE = Part(1, 1)


def documents() -> tuple[Documents, dict[str, list[Tensor]]]:
    """Return documents without a masked token, and the document of each row of each shard."""
    lengths, held_out, of_rows = list[int](), list[bool](), dict[str, list[Tensor]]()
    for split, sizes in ROWS.items():
        of_rows[split] = []
        for size in sizes:
            parts = [min(PER_DOCUMENT, size - start) for start in range(0, size, PER_DOCUMENT)]
            of_rows[split].append(
                torch.repeat_interleave(
                    torch.arange(len(lengths), len(lengths) + len(parts)), torch.tensor(parts)
                )
            )
            lengths += parts
            held_out += [split == "held_out"] * len(parts)
    total = sum(lengths)
    made = Documents(
        token_ids=np.arange(total, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        source=np.zeros(len(lengths), dtype=np.int16),
        held_out=np.array(held_out),
        template=np.zeros(total, dtype=bool),
        masked=np.zeros(total, dtype=bool),
        source_names=("text",),
    )
    return made, of_rows


def values(split: str, dtype: str = "float32") -> list[Tensor]:
    """Return the values of the rows of each shard; the first entry numbers the rows of the split."""
    generator, start, found = torch.Generator().manual_seed(len(split)), 0, list[Tensor]()
    for size in ROWS[split]:
        rows = torch.randn(size, sum(D_MODELS), generator=generator)
        rows[:, 0] = torch.arange(start, start + size)
        found.append(rows.to(getattr(torch, dtype)))
        start += size
    return found


def plan(dtype: Any = "float32") -> Manifest:
    """Return the manifest of activations of which no shard is written."""
    return Manifest(
        identity={"seed": 0},
        dtype=dtype,
        d_models=D_MODELS,
        documents_digest=documents()[0].digest(),
        median_norms=(1.0, 1.0),
        max_norms=(10.0, 10.0),
        sides={split: SplitRecord(n_planned=len(sizes)) for split, sizes in _sizes().items()},
    )


def _sizes() -> dict[Split, tuple[int, ...]]:
    return {"held_out": ROWS["held_out"], "train": ROWS["train"]}


def write(writer: ShardWriter[Any], part: Part = WHOLE, dtype: str = "float32") -> None:
    """Write the missing shards of a part."""
    manifest, of_rows = plan(dtype), documents()[1]
    for split, numbers in part_records.shards_of(manifest, part).items():
        rows = values(split, dtype)
        for number in numbers[len(writer.record.sides[split].shards) :]:
            document = of_rows[split][number]
            writer.write(
                split, rows[number], document, torch.arange(len(document)) % PER_DOCUMENT, n_outliers=1
            )
    writer.flush()


def write_local(folder: Path, dtype: str = "float32") -> Path:
    """Write everything to a folder of activations."""
    write(ShardWriter(folder, plan(dtype)), dtype=dtype)
    documents()[0].save(folder / DOCUMENTS)
    return folder


def open_at(url: str, folder: Path, **settings: Any) -> ShardStore:
    """Return the store at a URL of the folder of activations of a run."""
    return ShardStore(StoreConfig(url=url, **settings), folder)


def upload(store: ShardStore, part: Part = WHOLE, dtype: str = "float32") -> None:
    """Upload the missing shards of a part."""
    found = store.look() or store.begin(plan(dtype))
    store.take(found)
    if found.complete:
        return
    documents()[0].save(store.folder / DOCUMENTS)
    store.put_documents()
    records = part_records.read_records(store.folder, found, "")
    record = records.get(part) or part_records.PartRecord.begin(found, part, "")
    with StoreWriter(store, record) as writer:
        write(writer, part, dtype)


def join(store: ShardStore) -> None:
    """Join the parts, and write the manifest."""
    found = store.look()
    assert found is not None
    store.take(found)
    records = part_records.read_records(store.folder, found, "")
    whole = part_records.joined(found, records, "", store.url, store.lacks)
    store.finish(whole)
    whole.save(store.folder)


def write_at(url: str, folder: Path, dtype: str = "float32", **settings: Any) -> ShardStore:
    """Write everything to a URL."""
    store = open_at(url, folder, **settings)
    upload(store, dtype=dtype)
    join(store)
    return store
