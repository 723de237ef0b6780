"""Counts agree with their nouns, and text is safe to print."""

import pytest

from levit_cli.system.text import count_noun, printable


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2000, "image", "2,000 images"), (1, "class", "1 class")],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert count_noun(number, noun) == text


def test_a_plural_is_regular_unless_it_is_given() -> None:
    assert count_noun(3, "class") == "3 classes"
    assert count_noun(3, "entry", "entries") == "3 entries"
    assert count_noun(1, "entry", "entries") == "1 entry"


def test_control_characters_and_undecodable_bytes_are_escaped() -> None:
    assert printable("café\n\x1b[31m\udcff") == "café\\n\\x1b[31m\\udcff"
