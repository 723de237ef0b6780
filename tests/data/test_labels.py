"""Class names come from ImageNet, a checkpoint's config or a label file, and their number must match the classes."""

from pathlib import Path

import pytest

from levit_cli.data.labels import (
    Labels,
    from_id2label,
    from_names,
    imagenet1k,
    numbered,
    read_labels,
    require_length,
    synonyms,
)
from levit_cli.errors import RefusedError

ANIMALS = ("cat", "dog", "bird")


def test_imagenet_has_a_thousand_classes_in_the_order_of_their_wordnet_ids() -> None:
    labels = imagenet1k()
    assert len(labels) == 1000
    assert labels.wnids is not None
    assert list(labels.wnids) == sorted(set(labels.wnids))
    assert (labels.names[0], labels.wnids[0]) == ("tench", "n01440764")
    assert (labels.names[999], labels.wnids[999]) == ("toilet tissue", "n15075141")


@pytest.mark.parametrize(
    ("name", "wnids"), [("crane", ["n02012849", "n03126707"]), ("maillot", ["n03710637", "n03710721"])]
)
def test_classes_that_share_a_name_have_different_wordnet_ids(name: str, wnids: list[str]) -> None:
    labels = from_names([f"{lemma}, and a synonym" for lemma in imagenet1k().names])
    assert labels.wnids is not None
    assert [wnid for wnid, lemma in zip(labels.wnids, labels.names, strict=True) if lemma == name] == wnids


def test_imagenet_names_with_synonyms_are_recognized() -> None:
    assert from_names([f"{name}, {name} of another word" for name in imagenet1k().names]) is imagenet1k()


def test_a_thousand_other_names_are_not_mistaken_for_imagenet() -> None:
    names = ["tench, Tinca tinca", *(f"thing {index}" for index in range(999))]
    assert from_names(names) == Labels(tuple(names))


def test_imagenet_classes_have_all_wordnet_synonyms() -> None:
    names = synonyms(imagenet1k())
    assert names[281] == ("tabby", "tabby cat")
    assert names[2][:2] == ("great white shark", "white shark")
    assert all(first == name for (first, *_), name in zip(names, imagenet1k().names, strict=True))


def test_synonyms_of_other_labels_are_separated_by_commas() -> None:
    assert synonyms(Labels(("cat", "dog, hound ,", "a"))) == (("cat",), ("dog", "hound"), ("a",))


def test_classes_without_names_are_numbered() -> None:
    assert numbered(3) == Labels(("class 0", "class 1", "class 2"))


def test_config_labels_are_sorted_by_index() -> None:
    assert from_id2label({"2": "bird", "0": "cat", "1": "dog"}) == Labels(ANIMALS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"cat\ndog\nbird\n"),
        ("b.txt", b"cat\ndog\nbird"),
        ("windows.txt", b"cat\r\ndog\r\nbird\r\n"),
        ("marked.txt", b"\xef\xbb\xbfcat\ndog\nbird\n"),
        ("blank-lines-at-the-end.txt", b"cat\ndog\nbird\n\n \n"),
        ("indented.txt", b"  cat\n\tdog \nbird\n"),
        ("no-suffix", b"cat\ndog\nbird\n"),
        ("list.json", b'["cat", "dog", "bird"]'),
        ("LIST.JSON", b'["cat", " dog", "bird"]'),
        ("object.json", b'{"1": "dog", "0": "cat", "2": "bird"}'),
        ("marked.json", b'\xef\xbb\xbf["cat", "dog", "bird"]'),
    ],
)
def test_a_label_file_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_labels(tmp_path / name) == Labels(ANIMALS)


def test_a_name_may_contain_any_character_except_a_newline(tmp_path: Path) -> None:
    names = ("línea", "猫", "a\tb", "form\x0cfeed", "separator\u2028here", '"quoted", [red]')
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_labels(tmp_path / "names.txt") == Labels(names)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bytes.txt", b"caf\xe9\n", "utf-8"),
        ("broken.json", b'["cat", ', "Expecting value"),
        ("deep.json", b"[" * 200_000, "recursion"),
        ("number.json", b"7", "list of names"),
        ("numbers.json", b"[1, 2, 3]", "list of names"),
        ("nested.json", b'[["cat"], ["dog"]]', "list of names"),
        ("words.json", b'{"cat": 0, "dog": 1}', "not keyed by class index"),
        ("gap.json", b'{"0": "cat", "2": "bird"}', "without a gap"),
        ("from-one.json", b'{"1": "cat", "2": "dog"}', "without a gap"),
    ],
)
def test_the_error_for_an_invalid_label_file_names_it(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedError, match=reason) as caught:
        read_labels(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_error_for_a_missing_label_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"missing\.txt.*No such file"):
        read_labels(tmp_path / "missing.txt")
    with pytest.raises(RefusedError, match="directory"):
        read_labels(tmp_path)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_wrong_number_of_labels_is_an_error_with_both_numbers(num_classes: int) -> None:
    with pytest.raises(RefusedError, match=rf"pets\.txt has 3 labels, but the model has {num_classes} classes"):
        require_length(Labels(ANIMALS), num_classes, "pets.txt")


def test_the_right_number_of_labels_is_accepted() -> None:
    assert require_length(Labels(ANIMALS), 3, "pets.txt") == Labels(ANIMALS)
