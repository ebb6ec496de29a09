"""Shards at a URL: written there, and read through local copies.

    URL/plan.json                    manifest.json without shards: what all parts share. Whoever comes first writes it
    URL/documents.safetensors, URL/train/00000.safetensors, URL/held_out/…
    URL/parts/3-of-8.json            what a part has finished (a harvest by one process is part 1 of 1)
    URL/manifest.json                last: without it the harvest is not finished

Shards and manifest have the bytes that a harvest to the run folder has. RUN/activations holds manifest.json and documents.safetensors as it
does then, which RUN/files.json pins, and copies of some shards. So the digest that a shard has to have comes from the run folder, once the
manifest was taken over; nothing else that the URL returns is trusted.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..config import StoreConfig, store_settings
from ..config.activations import ActivationsConfig
from ..errors import ConfigError, FormatError
from ..runtime.files import make_folder, write_atomic
from ..runtime.replacement import partial_file
from ..runtime.url_store import TRANSFERS, UrlStore
from ..text.documents import Documents
from .part_records import PARTS, PartRecord
from .shard_cache import ShardCache, shard_bytes
from .shards import (
    DOCUMENTS,
    MANIFEST,
    Manifest,
    Shard,
    ShardReader,
    ShardWriter,
    Split,
    SplitRecord,
    shard_name,
)

logger = logging.getLogger(__name__)

PLAN = "plan.json"

_LARGEST_RECORD = 1 << 28
_LARGEST_DOCUMENTS = 1 << 36
"""Bytes that a record, and the file of documents, may have: enough for two million shards, and for ten billion tokens."""

_PART_NAME = re.compile(rf"{PARTS}/[1-9][0-9]{{0,5}}-of-[1-9][0-9]{{0,5}}\.json")


class ShardStore:
    """The activations of a run at a URL. Methods raise ResourceError if it cannot be reached (see `UrlStore`)."""

    def __init__(self, config: StoreConfig, folder: Path) -> None:
        """`folder`: the folder of activations of the run."""
        self.url, self.folder = config.url, folder
        self.files = UrlStore(config.url, "activations.store.url")
        self.cache = ShardCache(self.files, folder, int(config.cache_gb * 1e9))

    # --- the harvest ------------------------------------------------------------------------------------------------------

    def look(self) -> Manifest | None:
        """Return the manifest at the URL, or, while the harvest is not finished, its plan; None if there is neither, or if the folder holds
        the finished manifest already.

        Raises:
            FormatError: It is damaged, or is not that of the harvest that the folder began.
        """
        begun = Manifest.load(self.folder) if (self.folder / MANIFEST).exists() else None
        if begun is not None and begun.complete:
            return None
        found = self._read_manifest(MANIFEST) or self._read_manifest(PLAN)
        if found is not None and begun is not None and _without_shards(found) != _without_shards(begun):
            raise FormatError(
                f"{self.url}: holds other activations than those that the harvest in {self.folder} began; give another "
                f"activations.store.url, or remove {self.folder}"
            )
        return found

    def take(self, found: Manifest) -> None:
        """Take what `look` returned into the folder: with the documents if the harvest is finished, else with the records of parts."""
        if found.complete:
            self._take_documents(found)
        else:
            names = sorted(filter(_PART_NAME.fullmatch, self.files.sizes(PARTS)))
            for name, content in zip(names, self.files.read_all(names, _LARGEST_RECORD), strict=True):
                if content is not None:
                    write_atomic(self.folder / name, content)
        found.save(self.folder)

    def begin(self, plan: Manifest) -> Manifest:
        """Write the plan, and return the one that counts: that of another process, if it came first."""
        if self.files.create(PLAN, _json(plan)):
            return plan
        return self._read_manifest(PLAN) or plan

    def put_documents(self) -> None:
        """Upload the documents, unless they are there as a whole."""
        content = (self.folder / DOCUMENTS).read_bytes()
        if self.files.size(DOCUMENTS) != len(content):
            self.files.write(DOCUMENTS, content)

    def put_record(self, record: PartRecord) -> None:
        """Write the record of a part, to the folder and to the URL."""
        path = record.save(self.folder)
        self.files.write(f"{PARTS}/{path.name}", path.read_bytes())

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the harvest count. The folder gets the documents, if it joins the parts of others alone."""
        self._take_documents(manifest)
        self.files.write(MANIFEST, _json(manifest))

    def lacks(self, names: Iterable[str]) -> set[str]:
        """Return those of the named shards that are not at the URL."""
        listed = set[str]().union(*(self.files.sizes(split) for split in ("train", "held_out")))
        # A place may list a new file late.
        return {name for name in names if name not in listed and self.files.size(name) is None}

    # --- private ----------------------------------------------------------------------------------------------------------

    def _read_manifest(self, name: str) -> Manifest | None:
        content = self.files.read(name, _LARGEST_RECORD)
        if content is None:
            return None
        where = self.files.where(name)
        manifest = Manifest.parse(content, where)
        for split, side in manifest.sides.items():
            # The names become paths of local copies.
            if [shard.file for shard in side.shards] != [
                shard_name(split, number) for number in range(len(side.shards))
            ]:
                raise FormatError(
                    f"{where}: lists shards by other names than {shard_name(split, 0)} and so on; harvest to another URL"
                )
        if not manifest.complete if name == MANIFEST else manifest.rows:
            raise FormatError(f"{where}: does not list as many shards as it should; harvest to another URL")
        return manifest

    def _take_documents(self, manifest: Manifest) -> None:
        path, where = self.folder / DOCUMENTS, self.files.where(DOCUMENTS)
        if path.exists():
            return
        make_folder(self.folder, "output")
        with partial_file(path) as partial:
            try:
                self.files.download(DOCUMENTS, partial, _LARGEST_DOCUMENTS)
            except FileNotFoundError:
                raise FormatError(f"{where}: missing; restore it, or harvest to another URL") from None
            if (documents := _documents_of(partial, manifest)) is None:
                raise FormatError(
                    f"{where}: altered since the harvest; restore it, or harvest to another URL"
                )
        documents.save(path)


def _documents_of(path: Path, manifest: Manifest) -> Documents | None:
    """Return the documents in a file, if they are those of the manifest."""
    try:
        documents = Documents.load(path)
    except FormatError:
        return None
    return documents if documents.digest() == manifest.documents_digest else None


def store_of(config: ActivationsConfig, folder: Path) -> ShardStore | None:
    """Return the store that the settings name for the folder of activations of a run; None if the shards lie in that folder."""
    settings = store_settings(config)
    return None if settings is None else ShardStore(settings, folder)


def place_of(store: ShardStore | None, folder: Path) -> str:
    """Return where the shards of a run lie, for messages: the URL of its store, or else its folder of activations."""
    return str(folder) if store is None else store.url


def open_shards(config: ActivationsConfig, folder: Path, split: Split) -> ShardReader:
    """Open one split of a finished harvest, wherever its shards lie.

    Raises:
        FormatError: The harvest is not finished; or, in a folder, a shard is not the one that was written, which shards at a URL
            are found to be when they are read.
    """
    store = store_of(config, folder)
    return ShardReader(folder, split) if store is None else StoreReader(store, split)


class StoreReader(ShardReader):
    """`ActivationReader` over the shards at a URL: each is downloaded when it is first used, and checked."""

    def __init__(self, store: ShardStore, split: Split) -> None:
        """Open a split.

        Raises:
            FormatError: The harvest is not finished.
            ConfigError: A shard is larger than the local copies may be.
        """
        self._cache = store.cache
        super().__init__(store.folder, split)

    def _open(self, folder: Path, verify: bool) -> None:
        largest = max((shard_bytes(record, self._manifest) for record in self._records), default=0)
        if largest > self._cache.most_bytes:
            raise ConfigError(
                f"activations.store.cache_gb: {self._cache.most_bytes / 1e9:g} GB cannot hold one shard of {largest / 1e9:.3g} GB; give "
                "several times that"
            )

    def _shard(self, index: int) -> AbstractContextManager[Shard]:
        return self._cache.open(self._records[index], self._manifest)

    @property
    def shard_rows(self) -> Int64[np.ndarray, " shard"]:
        """Number of rows of each shard."""
        return np.diff(self._starts)

    def whole_shards(
        self, shards: Sequence[int]
    ) -> tuple[Float[Tensor, "token width"], Int64[Tensor, " token"]]:
        """Read whole shards, several at a time.

        Returns:
            The values of their rows in the given order, and the document of each row.
        """
        rows = self.shard_rows[list(shards)]
        ends = np.cumsum(rows)
        values = torch.empty(int(rows.sum()), sum(self.d_models), dtype=self.dtype)
        view = values.view(torch.int16).numpy() if self.dtype == torch.bfloat16 else values.numpy()
        document = np.empty(len(values), dtype=np.int64)

        def read(index: int, own: slice) -> None:
            with self._shard(index) as shard:
                view[own], document[own] = shard.values, shard.document

        places = [slice(int(end - n), int(end)) for end, n in zip(ends, rows, strict=True)]
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="next shards") as executor:
            for done in [
                executor.submit(read, index, own) for index, own in zip(shards, places, strict=True)
            ]:
                done.result()
        return values, torch.from_numpy(document)


class StoreWriter(ShardWriter[PartRecord]):
    """Uploads the shards of a part while the next one is computed; one that cannot be uploaded stops the next from being begun.

    `record` lists what is uploaded. A block (`with`) ends once nothing is under way any more.
    """

    def __init__(self, store: ShardStore, record: PartRecord) -> None:
        super().__init__(store.folder, record)
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._upload: Future[None] | None = None

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(wait=True)
        if self._upload is not None and (failure := self._upload.exception()) is not None:
            # Another error ends the block.
            logger.warning("%s", failure)

    def flush(self) -> None:
        """Wait for the upload that is under way, and raise its error."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.result()

    def save_record(self, record: PartRecord) -> None:
        """Write the record, and let it stand for what is uploaded once it is written."""
        self._store.put_record(record)
        self.record = record

    def _finish(self, split: Split, content: bytes, n_rows: int, n_outliers: int) -> None:
        self.flush()
        self._upload = self._executor.submit(super()._finish, split, content, n_rows, n_outliers)

    def _put(self, name: str, content: bytes) -> None:
        self._store.files.write(name, content)
        self._store.cache.keep(name, content)


def _json(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _without_shards(manifest: Manifest) -> Manifest:
    sides = {split: SplitRecord(n_planned=side.n_planned) for split, side in manifest.sides.items()}
    return manifest.model_copy(update={"sides": sides})
