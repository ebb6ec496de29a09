"""Parts of a long piece of work: independent processes that each do a share of it, on one machine or several."""

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import ConfigError

LAUNCHER = "env"
"""Word of the command line that asks for the part which a launcher assigned."""

MOST_PARTS = 100_000

_TORCHRUN, _ARRAY, _TASKS = "torchrun", "a Slurm array", "a Slurm job with several tasks"

_FORM = "give PART/PARTS, counted from 1, e.g. 1/8 for the first of eight, or env for the part that torchrun or Slurm assigned"


class _Use(NamedTuple):
    """What the variables of a launcher are read for, and what to do instead; for messages."""

    name: str
    remedy: str


_IN_PARTS = _Use("--part env", "give PART/PARTS, e.g. 1/8")
_AS_GROUP = _Use("torchrun", "start the command with torchrun, or unset the variables of torchrun")


class Part(NamedTuple):
    """One of several parts."""

    number: int
    """Counted from 1."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def range_of(self, n_items: int) -> range:
        """Return the items of this part: consecutive, and as many as those of another part, or one more or less."""
        return range((self.number - 1) * n_items // self.of, self.number * n_items // self.of)


def read_part(words: str, variables: Mapping[str, str]) -> Part:
    """Read a part from the command line, `3/8`, or from the variables of a launcher if it is `env`.

    Raises:
        ConfigError: It is not a part, or the variables name none, or two.
    """
    if words == LAUNCHER:
        return _assigned(variables)
    number, slash, of = words.partition("/")
    if not (slash and _is_count(number) and _is_count(of)):
        raise ConfigError(f"--part: {words!r} is not a part; {_FORM}")
    part = Part(int(number), int(of))
    if part.of > MOST_PARTS:
        raise ConfigError(f"--part: {part.of} parts were asked for, but there may be {MOST_PARTS} at most")
    if not 1 <= part.number <= part.of:
        allowed = f"give 1/{part.of} to {part.of}/{part.of}" if part.of else _FORM
        raise ConfigError(f"--part: there is no part {words}, because parts are counted from 1; {allowed}")
    return part


def launched_as(variables: Mapping[str, str]) -> Part | None:
    """Return the place of this process among those that torchrun started; None if there is no WORLD_SIZE.

    Raises:
        ConfigError: The variables contradict each other, or a part of what torchrun sets is missing.
    """
    part = _ranked(variables, "RANK", "WORLD_SIZE", _AS_GROUP) if "WORLD_SIZE" in variables else None
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in variables]
    if part is not None and part.of > 1 and missing:
        raise ConfigError(
            f"torchrun: RANK and WORLD_SIZE are set, but not {' and '.join(missing)}; {_AS_GROUP.remedy}"
        )
    return part


def local_rank(variables: Mapping[str, str]) -> int:
    """Return the number of this process among those that torchrun or Slurm started on this machine; 0 without one."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if name in variables:
            return _number(variables, name, _IN_PARTS)
    return 0


def local_size(variables: Mapping[str, str]) -> int:
    """Return how many processes torchrun started on this machine; 1 without it."""
    return _number(variables, "LOCAL_WORLD_SIZE", _AS_GROUP) if "LOCAL_WORLD_SIZE" in variables else 1


def _assigned(variables: Mapping[str, str]) -> Part:
    found = {
        _TORCHRUN: _ranked(variables, "RANK", "WORLD_SIZE", _IN_PARTS),
        _ARRAY: _of_array(variables),
        _TASKS: _ranked(variables, "SLURM_PROCID", "SLURM_NTASKS", _IN_PARTS),
    }
    parts = {name: part for name, part in found.items() if part is not None}
    if not parts:
        raise ConfigError(
            "--part env: no launcher assigned a part: found neither RANK and WORLD_SIZE (torchrun) nor SLURM_ARRAY_TASK_ID and "
            "SLURM_ARRAY_TASK_COUNT nor SLURM_PROCID and SLURM_NTASKS (Slurm); give PART/PARTS, e.g. 1/8"
        )
    several = {name: part for name, part in parts.items() if part.of > 1}
    # One torchrun on each node is started as a task of its own, and its ranks count through all nodes.
    if _TORCHRUN in several:
        several.pop(_TASKS, None)
    if len(several) > 1:
        told = " and ".join(f"{name} says {part}" for name, part in several.items())
        raise ConfigError(f"--part env: {told}; give the part itself, PART/PARTS, e.g. 1/8")
    return next(iter((several or parts).values()))


def _ranked(variables: Mapping[str, str], rank: str, size: str, use: _Use) -> Part | None:
    """Return the part of a process that counts from 0, if both variables or one of them is there."""
    if rank not in variables and size not in variables:
        return None
    part = Part(_number(variables, rank, use) + 1, _number(variables, size, use))
    if not 1 <= part.number <= part.of:
        raise ConfigError(
            f"{use.name}: {rank} is {part.number - 1} and {size} is {part.of}, but {rank} counts from 0 to {size} - 1; {use.remedy}"
        )
    return part


def _of_array(variables: Mapping[str, str]) -> Part | None:
    """Return the part of a task of a Slurm array, whose first number and step are free."""
    names = {name: f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP")}
    if names["ID"] not in variables and names["COUNT"] not in variables:
        return None
    task, of = _number(variables, names["ID"], _IN_PARTS), _number(variables, names["COUNT"], _IN_PARTS)
    first = _number(variables, names["MIN"], _IN_PARTS) if names["MIN"] in variables else 1
    step = _number(variables, names["STEP"], _IN_PARTS) if names["STEP"] in variables else 1
    tasks = range(first, first + of * step, step) if step else range(0)
    last = (
        _number(variables, names["MAX"], _IN_PARTS)
        if names["MAX"] in variables
        else tasks[-1]
        if tasks
        else first
    )
    if task not in tasks or last != tasks[-1]:
        raise ConfigError(
            f"--part env: the Slurm array has {of} tasks from {first} to {last}, and this is task {task}, so they are not numbered one after "
            "another; give the part itself, PART/PARTS, e.g. 1/8"
        )
    return Part(tasks.index(task) + 1, of)


def _number(variables: Mapping[str, str], name: str, use: _Use) -> int:
    """Return a variable that holds a whole number. Raises ConfigError if it is missing or does not."""
    value = variables.get(name)
    if value is None or not _is_count(value):
        found = "not set" if value is None else f"{value!r}, which is not a whole number"
        raise ConfigError(f"{use.name}: {name} is {found}; {use.remedy}")
    return int(value)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 9
