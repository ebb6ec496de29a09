"""The part that a process does: from the command line, or from the variables of torchrun and Slurm."""

import pytest

from crosscoder.errors import ConfigError
from crosscoder.runtime.parts import Part, local_rank, read_part


@pytest.mark.parametrize("of", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("n_items", [0, 1, 5, 7, 100])
def test_parts_are_consecutive_even_and_whole(of: int, n_items: int) -> None:
    ranges = [Part(number, of).range_of(n_items) for number in range(1, of + 1)]
    assert [item for part in ranges for item in part] == list(range(n_items))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize(
    ("words", "part"), [("1/1", (1, 1)), ("3/8", (3, 8)), ("8/8", (8, 8)), ("03/08", (3, 8))]
)
def test_a_part_on_the_command_line(words: str, part: tuple[int, int]) -> None:
    # Variables of a launcher count only if they are asked for.
    assert read_part(words, {"RANK": "5", "WORLD_SIZE": "6", "SLURM_ARRAY_TASK_ID": "2"}) == part


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("9/8", "there is no part 9/8, because parts are counted from 1; give 1/8 to 8/8"),
        ("0/8", "there is no part 0/8, because parts are counted from 1; give 1/8 to 8/8"),
        ("0/0", "there is no part 0/0"),
        ("1/0", "there is no part 1/0"),
        ("3", "'3' is not a part; give PART/PARTS, counted from 1"),
        ("3/8/9", "'3/8/9' is not a part"),
        ("-1/8", "'-1/8' is not a part"),
        ("1.5/8", "'1.5/8' is not a part"),
        ("١/8", "is not a part"),
        ("", "'' is not a part"),
        ("ENV", "'ENV' is not a part"),
        ("1/100001", "100001 parts were asked for, but there may be 100000 at most"),
        ("1/9999999999999", "is not a part"),
    ],
)
def test_what_is_no_part_is_refused(words: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_part(words, {})
    assert complaint in str(caught.value)


def array(task: int, count: int, first: int, last: int, step: int = 1) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"RANK": "0", "WORLD_SIZE": "8"}, (1, 8)),
        ({"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, (8, 8)),
        (array(1, 8, 1, 8), (1, 8)),
        (array(0, 8, 0, 7), (1, 8)),
        (array(7, 8, 0, 7), (8, 8)),
        (array(15, 8, 1, 15, step=2), (8, 8)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (3, 4)),
        # An array of jobs with a single task each, and a torchrun inside a single task.
        ({**array(3, 8, 1, 8), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (3, 8)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 2)),
        # One torchrun on each of two nodes.
        ({"RANK": "9", "WORLD_SIZE": "16", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (10, 16)),
        ({"RANK": "0", "WORLD_SIZE": "1", **array(3, 8, 1, 8)}, (3, 8)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (1, 1)),
    ],
)
def test_the_part_that_a_launcher_assigned(variables: dict[str, str], part: tuple[int, int]) -> None:
    assert read_part("env", variables) == part


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({}, "no launcher assigned a part: found neither RANK and WORLD_SIZE (torchrun) nor SLURM_ARRAY_TASK_ID"),
        ({"RANK": "3"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "3"}, "RANK is not set"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({"RANK": "x", "WORLD_SIZE": "3"}, "RANK is 'x', which is not a whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "3"}, "RANK is '-1'"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK is 3 and WORLD_SIZE is 3, but RANK counts from 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK counts from 0"),
        # --array=1,3,8: not numbered one after another.
        (array(3, 3, 1, 8), "the Slurm array has 3 tasks from 1 to 8, and this is task 3"),
        (array(4, 8, 1, 15, step=2), "this is task 4"),
        (array(1, 8, 1, 8, step=0), "not numbered one after another"),
        (array(1, 0, 1, 8), "not numbered one after another"),
        ({"RANK": "1", "WORLD_SIZE": "2", **array(3, 8, 1, 8)}, "torchrun says 2/2 and a Slurm array says 3/8"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", **array(3, 8, 1, 8)}, "a Slurm array says 3/8 and a Slurm job with several tasks says 2/2"),
    ],
)  # fmt: skip
def test_variables_that_name_no_part_are_refused(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_part("env", variables)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("--part env: ")


def test_the_number_on_this_machine() -> None:
    assert local_rank({}) == 0
    assert local_rank({"LOCAL_RANK": "3", "SLURM_LOCALID": "0"}) == 3
    assert local_rank({"SLURM_LOCALID": "2"}) == 2
    with pytest.raises(ConfigError, match="LOCAL_RANK is 'a'"):
        local_rank({"LOCAL_RANK": "a"})
