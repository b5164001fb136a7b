"""What a user is told is one class of error."""

import pytest

from sightword.errors import MissingFileError, SightwordError, printable


def test_a_caller_catches_it_as_its_own_class_or_as_a_value_error():
    assert issubclass(SightwordError, ValueError)
    with pytest.raises(ValueError, match="size=0"):
        raise SightwordError("size=0 is not a size")


def test_other_value_errors_are_none():
    with pytest.raises(ValueError) as caught:
        int("x")
    assert not isinstance(caught.value, SightwordError)


@pytest.mark.parametrize("kind", [SightwordError, FileNotFoundError, OSError, ValueError])
def test_a_missing_file_is_caught_as_any_of_its_classes(kind):
    with pytest.raises(kind, match="^a.json does not exist$"):
        raise MissingFileError("a.json does not exist")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\u202eright to left", "\\u202eright to left"),
        ("a lone \ud800", "a lone \\ud800"),
        ("一张 café", "一张 café"),
    ],
)
def test_a_message_is_one_line_without_control_characters(text, line):
    assert printable(text) == line
    assert printable(text).encode()
