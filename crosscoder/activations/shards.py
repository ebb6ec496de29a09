"""Activations on disk: memory-mapped safetensors shards and their manifest.

    activations/manifest.json            the models, the settings, and the digest of every finished shard
    activations/documents.safetensors    the token ids (see `text.documents`)
    activations/train/00000.safetensors  values [row, width], document [row], position [row]
    activations/held_out/00000.safetensors
    activations/parts/3-of-8.json        what a part has finished, until all parts are joined (see `part_records`)

Rows are unmasked tokens. The tokens of a document are contiguous within one shard.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor

from ..config import Dtype
from ..errors import FormatError
from ..runtime.digests import content_digest, file_digest
from ..runtime.files import write_atomic
from ..runtime.json_text import parse_json
from .batch import ActivationBatch

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
MANIFEST = "manifest.json"
DOCUMENTS = "documents.safetensors"

# dtypes by their name in safetensors, for numpy and torch; numpy has no bfloat16, so its bits are read as integers.
_DTYPES: dict[str, tuple[type[np.generic], torch.dtype]] = {
    "F64": (np.float64, torch.float64),
    "F32": (np.float32, torch.float32),
    "F16": (np.float16, torch.float16),
    "BF16": (np.int16, torch.bfloat16),
    "I64": (np.int64, torch.int64),
    "I32": (np.int32, torch.int32),
    "I16": (np.int16, torch.int16),
    "I8": (np.int8, torch.int8),
    "U8": (np.uint8, torch.uint8),
}


class Record(BaseModel):
    """Base of the records in the manifest; an unknown key means that another program wrote the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(Record):
    """A finished shard."""

    file: str
    rows: int
    digest: str


class SplitRecord(Record):
    """Progress of the harvest of one split."""

    n_planned: int
    """Total number of shards."""
    n_outliers: int = 0
    """Tokens left out of the finished shards because of their norm."""
    shards: tuple[ShardRecord, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all shards are finished."""
        return len(self.shards) == self.n_planned


class Progress(Record):
    """A record of finished shards: of a whole store, or of a part."""

    if TYPE_CHECKING:
        # Declared by each kind of record, because the order of its fields is that of its file.
        sides: dict[Split, SplitRecord]

    @property
    def complete(self) -> bool:
        """Whether all shards that this record is about are finished."""
        return all(side.complete for side in self.sides.values())

    @property
    def rows(self) -> int:
        """Number of tokens in the finished shards."""
        return sum(shard.rows for side in self.sides.values() for shard in side.shards)

    def first_of(self, split: Split) -> int:
        """Return the number of the first shard of `sides[split]`."""
        return 0

    def with_side(self, split: Split, side: SplitRecord) -> Self:
        """Return this record with another progress of a split."""
        return self.model_copy(update={"sides": self.sides | {split: side}})

    def save(self, folder: Path) -> Path:
        """Write the record to a folder of activations, atomically, and return its path."""
        raise NotImplementedError


class Manifest(Progress):
    """The content of a folder of activations, and the inputs it was made from."""

    schema_version: Literal[1] = 1
    identity: dict[str, Any]
    """Everything that determines the content: settings, pair, text. Harvests with equal identity are equal."""
    dtype: Dtype
    d_models: tuple[int, ...]
    documents_digest: str
    median_norms: tuple[float, ...]
    """Median activation norm of each model, over the first training documents."""
    max_norms: tuple[float, ...]
    """Largest accepted norm per model; tokens above it in any model are left out."""
    sides: dict[Split, SplitRecord]

    def save(self, folder: Path) -> Path:
        """Write manifest.json atomically, and return its path."""
        write_atomic(folder / MANIFEST, self.model_dump_json(indent=2) + "\n")
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read manifest.json.

        Raises:
            FormatError: It is missing, or not a manifest of activations.
        """
        path = folder / MANIFEST
        try:
            return cls.parse(path.read_bytes(), str(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FormatError(f"{path}: does not exist; run the harvest first") from error

    @classmethod
    def parse(cls, content: bytes, place: str) -> "Manifest":
        """Return the manifest with this content. Raises FormatError, which begins with the `place` it was read from, if it is none."""
        try:
            return cls.model_validate_json(content.decode("utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(map(str, first["loc"])) or "the file"
            raise FormatError(
                f"{place}: not a manifest of activations ({entry}: {first['msg']}); remove the folder and run the harvest again"
            ) from error
        except UnicodeDecodeError as error:
            raise FormatError(f"{place}: not text; remove the folder and run the harvest again") from error


def shard_name(split: Split, number: int) -> str:
    """Return the path of a shard inside the folder of activations."""
    return f"{split}/{number:05d}.safetensors"


ProgressRecord = TypeVar("ProgressRecord", bound=Progress)


class ShardWriter(Generic[ProgressRecord]):
    """Appends finished shards to a folder of activations. A killed process loses at most the current shard."""

    def __init__(self, folder: Path, record: ProgressRecord) -> None:
        self.folder = folder
        self.record = record
        """What is finished."""

    def write(
        self,
        split: Split,
        values: Float[Tensor, "row width"],
        document: Int[Tensor, " row"],
        position: Int[Tensor, " row"],
        n_outliers: int,
    ) -> None:
        """Write the next shard of a split, then record it."""
        tensors = {
            "values": values,
            "document": document.to(torch.int32),
            "position": position.to(torch.int32),
        }
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        self._finish(split, content, len(values), n_outliers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def flush(self) -> None:
        """Wait until everything that was written is recorded, and raise what went wrong with it."""

    def save_record(self, record: ProgressRecord) -> None:
        """Replace the record."""
        self.record = record
        record.save(self.folder)

    def _finish(self, split: Split, content: bytes, n_rows: int, n_outliers: int) -> None:
        before = self.record.sides[split]
        name = shard_name(split, self.record.first_of(split) + len(before.shards))
        self._put(name, content)
        record = ShardRecord(file=name, rows=n_rows, digest=content_digest(content))
        after = before.model_copy(
            update={"shards": (*before.shards, record), "n_outliers": before.n_outliers + n_outliers}
        )
        self.save_record(self.record.with_side(split, after))

    def _put(self, name: str, content: bytes) -> None:
        """Write a shard."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / name, content)


class Shard(NamedTuple):
    """Memory maps of one shard."""

    values: np.ndarray
    document: np.ndarray
    position: np.ndarray


class ShardReader:
    """`ActivationReader` over one split of a folder of activations. Only requested rows are read from disk."""

    def __init__(self, folder: Path, split: Split, *, verify: bool = True) -> None:
        """Open all shards of a split; `verify` reads them once to compare their digests.

        Raises:
            FormatError: The harvest is not finished, or a shard is missing, truncated, or altered.
        """
        self._manifest = manifest = Manifest.load(folder)
        record = manifest.sides.get(split)
        if record is None or not record.complete:
            found = "no shards" if record is None else f"{len(record.shards)} of {record.n_planned} shards"
            raise FormatError(
                f"{folder}: the harvest of {split} is not finished ({found}); run the harvest again"
            )
        self.d_models = manifest.d_models
        self.dtype: torch.dtype = getattr(torch, manifest.dtype)
        self._records = record.shards
        self._starts = np.concatenate([[0], np.cumsum([shard.rows for shard in record.shards])]).astype(
            np.int64
        )
        self.n_tokens = int(self._starts[-1])
        self._open(folder, verify)

    def _open(self, folder: Path, verify: bool) -> None:
        self._shards = [
            open_shard(folder / record.file, record, self._manifest, verify) for record in self._records
        ]

    def _shard(self, index: int) -> AbstractContextManager[Shard]:
        """Hold a shard open inside the block."""
        return nullcontext(self._shards[index])

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """Document of each token, in stored order."""
        documents = np.empty(self.n_tokens, dtype=np.int64)
        for index in range(len(self._records)):
            with self._shard(index) as shard:
                documents[self._starts[index] : self._starts[index + 1]] = shard.document
        return documents

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """Read the given rows, in the given order, with one fancy index per shard that contains any of them."""
        wanted = rows.cpu().numpy().astype(np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.n_tokens:
            raise IndexError(
                f"rows range from {wanted.min()} to {wanted.max()}, but there are {self.n_tokens}"
            )
        # Sorted, so that rows are read in their order on disk.
        order = np.argsort(wanted, kind="stable")
        bounds = np.searchsorted(wanted[order], self._starts)
        values = torch.empty(len(wanted), sum(self.d_models), dtype=self.dtype)
        view = values.view(torch.int16).numpy() if self.dtype == torch.bfloat16 else values.numpy()
        document, position = np.empty(len(wanted), dtype=np.int64), np.empty(len(wanted), dtype=np.int64)
        for index in np.flatnonzero(bounds[:-1] < bounds[1:]).tolist():
            places = order[bounds[index] : bounds[index + 1]]
            local = wanted[places] - self._starts[index]
            with self._shard(index) as shard:
                view[places] = shard.values[local]
                document[places] = shard.document[local]
                position[places] = shard.position[local]
        return ActivationBatch(values, torch.from_numpy(document), torch.from_numpy(position))

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """Yield all rows in stored order, `size` at a time."""
        for start in range(0, self.n_tokens, size):
            yield self.gather(torch.arange(start, min(start + size, self.n_tokens)))


def map_tensors(path: Path) -> dict[str, tuple[np.ndarray, torch.dtype]]:
    """Memory-map all tensors of a safetensors file; bfloat16 appears as integers with the same bits.

    Raises:
        FormatError: The file is missing, truncated, or not safetensors.
    """
    try:
        whole = np.memmap(path, dtype=np.uint8, mode="r")
    except (FileNotFoundError, ValueError, OSError) as error:
        raise FormatError(f"{path}: cannot be opened ({error})") from error
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    try:
        header = parse_json(whole[8:start].tobytes()) if 8 < start <= len(whole) else None
        entries = {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}
        maps = {}
        for name, entry in entries.items():
            begin, end = (start + offset for offset in entry["data_offsets"])
            kind, dtype = _DTYPES[entry["dtype"]]
            expected = math.prod(entry["shape"]) * np.dtype(kind).itemsize
            if end > len(whole) or end - begin != expected:
                raise FormatError(f"{path}: truncated; {len(whole):,} bytes found, {end:,} needed")
            maps[name] = (np.asarray(whole[begin:end]).view(kind).reshape(entry["shape"]), dtype)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: not a readable safetensors file ({error})") from error
    if not maps:
        raise FormatError(f"{path}: truncated, or not a safetensors file; no tensor found")
    return maps


def open_shard(path: Path, record: ShardRecord, manifest: Manifest, verify: bool) -> Shard:
    """Memory-map a shard. Raises FormatError if it is missing, or not the one that the manifest lists."""
    remedy = f"; remove {path.parents[1]} and run the harvest again"
    if not path.is_file():
        raise FormatError(f"{path}: missing, but listed in the manifest{remedy}")
    maps = map_tensors(path)
    shapes = {name: array.shape for name, (array, _) in maps.items()}
    expected = {
        "values": (record.rows, sum(manifest.d_models)),
        "document": (record.rows,),
        "position": (record.rows,),
    }
    if shapes != expected or maps["values"][1] != getattr(torch, manifest.dtype):
        raise FormatError(f"{path}: contains {shapes}, but the manifest lists {expected}{remedy}")
    if verify and file_digest(path) != record.digest:
        raise FormatError(
            f"{path}: altered since the harvest (its digest differs from the manifest's){remedy}"
        )
    return Shard(maps["values"][0], maps["document"][0], maps["position"][0])
