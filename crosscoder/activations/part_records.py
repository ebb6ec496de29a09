"""Parts of a harvest: what each has finished, and how they are joined.

    activations/parts/3-of-8.json   the shards that part 3 of 8 has finished

All shards, held-out ones first, are in one row, and a part makes consecutive ones of it. A shard depends on its own documents alone, and
what all shards share (the limits on norms) is in manifest.json before any part begins. So the joined folder has the bytes that one process
would have written, and joining needs no models.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from ..errors import ConfigError, FormatError
from ..runtime.digests import content_digest
from ..runtime.files import remove_folder, write_atomic
from ..runtime.parts import MOST_PARTS, Part
from .shards import Manifest, Progress, Split, SplitRecord, shard_name

PARTS = "parts"

_NAMED = 5
"""Largest number of unfinished parts that a message names."""


class PartRecord(Progress):
    """Progress of one part."""

    schema_version: Literal[1] = 1
    part: int
    of: Annotated[int, Field(ge=1, le=MOST_PARTS)]
    store: str
    """Digest of manifest.json: the store that these shards belong to."""
    first: dict[Split, int]
    """Number of the first shard of this part in each split."""
    sides: dict[Split, SplitRecord]
    """The shards of this part."""
    command: str
    """The command line that began it last."""
    wall_seconds: float = 0.0
    by_group: bool = False
    """Whether ranks of one command divided the harvest, so that the same command finishes it by itself."""
    digest: str = ""
    """Digest of this record without this entry."""

    @classmethod
    def begin(cls, manifest: Manifest, part: Part, command: str, *, by_group: bool = False) -> Self:
        """Return the record of a part that has finished nothing."""
        planned = shards_of(manifest, part)
        return cls(
            part=part.number,
            of=part.of,
            store=store_digest(manifest),
            first={split: shards.start for split, shards in planned.items()},
            sides={split: SplitRecord(n_planned=len(shards)) for split, shards in planned.items()},
            command=command,
            by_group=by_group,
        )

    def first_of(self, split: Split) -> int:
        """Return the number of the first shard of this part in a split."""
        return self.first[split]

    def save(self, folder: Path) -> Path:
        """Write the record to a folder of activations, atomically, and return the path."""
        sealed, path = (
            self.model_copy(update={"digest": self._own_digest()}),
            record_path(folder, Part(self.part, self.of)),
        )
        write_atomic(path, sealed.model_dump_json(indent=2) + "\n")
        return path

    @classmethod
    def parse(cls, content: bytes, place: str, remedy: str) -> Self:
        """Return the record with this content. Raises FormatError, which begins with the `place` it was read from and ends with `remedy`,
        if it is damaged or altered."""
        try:
            record = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(map(str, first["loc"])) or "the file"
            raise FormatError(
                f"{place}: not the record of a part ({entry}: {first['msg']}); {remedy}"
            ) from None
        if record.digest != record._own_digest():
            raise FormatError(f"{place}: altered (it does not match its own digest); {remedy}")
        return record

    def _own_digest(self) -> str:
        return content_digest(self.model_copy(update={"digest": ""}).model_dump_json().encode())


def record_name(part: Part) -> str:
    """Return the name of the record of a part."""
    return f"{part.number}-of-{part.of}.json"


def record_path(folder: Path, part: Part) -> Path:
    """Return the path of the record of a part in a folder of activations."""
    return folder / PARTS / record_name(part)


def store_digest(manifest: Manifest) -> str:
    """Return the digest of what all parts share: the identity of the store, its limits, its plan, and the shards made before."""
    return content_digest(manifest.model_dump_json().encode())


def shards_of(manifest: Manifest, part: Part) -> dict[Split, range]:
    """Return the numbers of the shards of each split that a part makes; those that the manifest lists are made already."""
    found: dict[Split, range] = {}
    start, own = 0, part.range_of(sum(side.n_planned for side in manifest.sides.values()))
    for split, side in manifest.sides.items():
        begin, end = (
            min(max(place - start, len(side.shards)), side.n_planned) for place in (own.start, own.stop)
        )
        found[split] = range(begin, end)
        start += side.n_planned
    return found


def read_records(
    folder: Path, manifest: Manifest, run: str, place: str | None = None
) -> dict[Part, PartRecord]:
    """Read the records of all parts that began, in the order of the parts.

    Args:
        run: The run folder as a word of a command, for messages.
        place: Where the records of all parts are, for messages; None: that is the folder.

    Raises:
        FormatError: One is damaged, is not that of a part of this store, or parts of two divisions are mixed.
    """
    found: dict[Part, PartRecord] = {}
    place = place or str(folder)
    for path in (folder / PARTS).glob("*-of-*.json"):
        number, _, of = path.stem.partition("-of-")
        where = f"{place}/{PARTS}/{path.name}"
        again = f"remove it and run `crosscoder harvest {run} --part {number}/{of}` again"
        record = PartRecord.parse(path.read_bytes(), where, again)
        part = Part(record.part, record.of)
        if record_path(folder, part) != path or not 1 <= part.number <= part.of:
            raise FormatError(f"{where}: is the record of part {part}; {again}")
        if not _fits(record, manifest):
            raise FormatError(f"{where}: was made for other activations than those of {place}; {again}")
        found[part] = record
    if len(divisions := sorted({part.of for part in found})) > 1:
        raise FormatError(
            f"{place}/{PARTS}: holds parts of {' and of '.join(map(str, divisions))}; keep the records of one number of parts and remove the others"
        )
    return dict(sorted(found.items()))


def require_division(place: str, records: Iterable[Part], part: Part, run: str) -> None:
    """Refuse a part of another division than the one that began at `place`. Raises ConfigError."""
    of = next((begun.of for begun in records), part.of)
    if of != part.of:
        raise ConfigError(
            f"--part: {part} was asked for, but the harvest in {place} is done in {of} parts; run `crosscoder harvest {run} --part N/{of}` for "
            f"each N from 1 to {of} (one process can do them one after another), or remove {place}/{PARTS}, which begins every part anew"
        )


def joined(
    manifest: Manifest,
    records: dict[Part, PartRecord],
    run: str,
    place: str,
    lacks: Callable[[list[str]], Collection[str]],
) -> Manifest:
    """Return the manifest with the shards of all parts, in their order.

    Args:
        place: Where the shards are, for messages.
        lacks: Returns those of the named shards that are not there.

    Raises:
        FormatError: A part is not finished, or one of its shards is missing.
    """
    of = next(iter(records)).of
    parts = [Part(number, of) for number in range(1, of + 1)]
    missing = [part for part in parts if not _finished(manifest, part, records)]
    if missing:
        raise FormatError(
            f"{place}: {_named(missing)} not finished: run `crosscoder harvest {run} --part {missing[0]}`"
            + (", and the others likewise" if len(missing) > 1 else "")
        )
    made_by = {
        shard.file: part
        for part, record in records.items()
        for side in record.sides.values()
        for shard in side.shards
    }
    if absent := lacks(list(made_by)):
        part = made_by[min(absent)]
        raise FormatError(
            f"{place}/{min(absent)}: missing, but part {part} wrote it; restore it, or remove {place}/{PARTS}/{record_name(part)} and run "
            f"`crosscoder harvest {run} --part {part}` again"
        )
    for split, side in manifest.sides.items():
        made = [record.sides[split] for record in records.values()]
        shards = (*side.shards, *(shard for one in made for shard in one.shards))
        n_outliers = side.n_outliers + sum(one.n_outliers for one in made)
        manifest = manifest.with_side(
            split, side.model_copy(update={"shards": shards, "n_outliers": n_outliers})
        )
    return manifest


def forget_records(folder: Path) -> None:
    """Remove the records of all parts, once they are joined."""
    if (folder / PARTS).exists():
        remove_folder(folder / PARTS)


def _finished(manifest: Manifest, part: Part, records: dict[Part, PartRecord]) -> bool:
    """Whether a part is finished; one without any shard need not have run."""
    return records[part].complete if part in records else not any(shards_of(manifest, part).values())


def _fits(record: PartRecord, manifest: Manifest) -> bool:
    """Whether a record is about the shards that this part of this store has."""
    planned = shards_of(manifest, Part(record.part, record.of))
    return (
        record.store == store_digest(manifest)
        and record.sides.keys() == record.first.keys() == planned.keys()
        and all(
            record.first[split] == shards.start
            and record.sides[split].n_planned == len(shards)
            and [shard.file for shard in record.sides[split].shards]
            == [shard_name(split, number) for number in shards][: len(record.sides[split].shards)]
            for split, shards in planned.items()
        )
    )


def _named(parts: Sequence[Part]) -> str:
    """Return e.g. `part 3 of 8 is`, `parts 3 and 5 of 8 are`."""
    numbers = [str(part.number) for part in parts]
    if len(numbers) == 1:
        return f"part {numbers[0]} of {parts[0].of} is"
    if len(numbers) > _NAMED + 1:
        numbers = [*numbers[:_NAMED], f"{len(numbers) - _NAMED} others"]
    return f"parts {', '.join(numbers[:-1])} and {numbers[-1]} of {parts[0].of} are"
