"""Every label has a folder name of its own that every file system accepts."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from levit_cli.sort.folders import MAX_BYTES, Folders, folded, folder_name

FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]|^[-. ]|[. ]$|^$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
SAFE = ["cat", "Labrador retriever", "écluse", "ecluse\u0301", "日本 犬", "a.b", "100% cotton", "rock 'n' roll", "x~1"]
UNSAFE = [
    *("a/b", "a\\b", "..", ".", "", " ", "-rf", ".git", "dog ", "dog.", "CON", "nul.txt", "com1", "LPT9.jpg"),
    *(
        "_uncertain",
        "_UNCERTAIN",
        "a\nb",
        "\x1b[2J",
        "half \ud800",
        "x" * 300,
        "é" * 150,
        "cat~0123abcd",
        "a:b",
        "\u202egpj",
    ),
]


@pytest.mark.guarantee("sort-folder-names")
@pytest.mark.parametrize("label", SAFE)
def test_a_safe_label_is_the_name(label: str) -> None:
    assert folder_name(label) == label


def is_safe(name: str) -> bool:
    is_printable = all(character.isprintable() for character in name)
    return is_printable and not FORBIDDEN.search(name) and not RESERVED.match(name) and len(name.encode()) <= MAX_BYTES


@pytest.mark.guarantee("sort-folder-names")
@pytest.mark.parametrize("label", UNSAFE)
def test_an_unsafe_label_gets_a_safe_name_with_a_hash(label: str) -> None:
    name = folder_name(label)
    assert is_safe(name)
    assert re.search(r"~[0-9a-f]{8}$", name)
    assert folder_name(name) != name  # that label has another folder


@pytest.mark.guarantee("sort-folder-names")
@settings(max_examples=200)
@given(st.text(max_size=40), st.text(max_size=40))
@example("a/b", "a:b")
@example("", "_")
@example("a.", "a_")
def test_names_are_safe_and_differ(label: str, other: str) -> None:
    assert is_safe(folder_name(label))
    assert (folder_name(label) == folder_name(other)) == (label == other)


@pytest.mark.guarantee("sort-folder-names")
@pytest.mark.parametrize(
    ("label", "other"), [("Cat", "cat"), ("é", "e\u0301"), ("straße", "STRASSE"), ("É", "e\u0301")]
)
def test_labels_that_a_file_system_may_consider_equal_have_different_folders(label: str, other: str) -> None:
    folders = Folders(lambda _: False)
    first, second = (folders.name_of(folders.key_of(text, index)) for index, text in enumerate((label, other)))
    assert first == label
    assert folded(first) != folded(second)
    later = Folders(lambda _: False)
    for key, name in folders.by_class.items():
        later.add(key, name)
    assert later.name_of((other, None)) == second  # an earlier run chose it


def test_classes_that_share_a_label_have_their_index_in_the_name() -> None:
    folders = Folders(lambda _: False, frozenset({"crane"}))
    names = [
        folders.name_of(folders.key_of(label, index)) for label, index in [("crane", 134), ("crane", 517), ("ox", 1)]
    ]
    assert names == ["crane (134)", "crane (517)", "ox"]


def test_a_name_that_a_file_has_gets_a_hash() -> None:
    folders = Folders(lambda name: name == "cat")
    assert re.fullmatch(r"cat~[0-9a-f]{8}", folders.name_of(("cat", None)))
