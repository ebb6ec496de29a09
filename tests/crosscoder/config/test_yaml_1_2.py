"""The YAML dialect of settings."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crosscoder.config.yaml_1_2 import describe_syntax_error, read_yaml, write_yaml

AMBIGUOUS = [
    "1e-4",
    "no",
    "on",
    "null",
    "~",
    "",
    "0x1F",
    "1_0",
    "1:30",
    "2024-01-01",
    "<<",
    "=",
    ".nan",
    ".inf",
]
TRAPS = [*AMBIGUOUS, "0o7", "- a", "a: b", "#"]
SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUE = st.recursive(
    SCALAR | st.sampled_from(TRAPS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(TRAPS), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUE)
def test_written_values_read_back_equal_with_any_reader(value: object) -> None:
    text = write_yaml(value)
    assert read_yaml(text) == value
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize("word", AMBIGUOUS)
def test_words_with_a_meaning_in_yaml_1_1_are_quoted(word: str) -> None:
    assert write_yaml([word]) == f"- {word!r}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "line 2, column 1: 'a' is given twice"),
        ("a: 1\n'a': 2", "line 2, column 1: 'a' is given twice"),
        ("a: !!int x", "line 1, column 4: 'x' is not a finite number"),
        ("a: 1e999", "line 1, column 4: '1e999' is not a finite number"),
        ("a: !!bool perhaps", "line 1, column 4: 'perhaps' is neither true nor false"),
        ("a: !!timestamp x", "line 1, column 4: could not determine a constructor for the tag"),
        (
            "a: !!python/object/apply:os.getcwd []",
            "line 1, column 4: could not determine a constructor for the tag",
        ),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_a_syntax_error_names_its_position(text: str, problem: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    assert describe_syntax_error(caught.value).startswith(problem)


def test_a_merged_mapping_may_be_overridden() -> None:
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
    }
