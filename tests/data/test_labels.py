"""Class names come from ImageNet, a config or a label file, and there must be one for each class of the model."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from levit_cli.data.label_files import read_labels
from levit_cli.data.labels import (
    Labels,
    from_id2label,
    from_names,
    imagenet1k,
    numbered,
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
        ("class_to_idx.json", b'{"bird": 2, "cat": 0, "dog": 1}'),
        ("config.json", b'{"model_type": "vit", "id2label": {"0": "cat", "1": "dog", "2": "bird"}}'),
        ("label2id.json", b'{"label2id": {"cat": 0, "dog": "1", "bird": 2}}'),
        ("stale.json", b'{"id2label": {"0": "cat", "1": "dog", "2": "bird"}, "label2id": {"LABEL_0": 0}}'),
        ("swapped.json", b'{"id2label": {"0": "LABEL_0"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}'),
        ("timm.json", b'{"architecture": "x", "pretrained_cfg": {"label_names": ["cat", "dog", "bird"]}}'),
        ("json-without-suffix", b'\n{"0": "cat", "1": "dog", "2": "bird"}'),
        ("indices.tsv", b"0\tcat\n2\tbird\n1\tdog\n"),
        ("names-first.tsv", b"cat\t0\ndog\t1\r\nbird\t2\n"),
        ("indices.csv", b"0,cat\n1, dog\n2,bird\n"),
        ("indices.txt", b"0: cat\n1: dog\n2: bird\n"),
        ("spaces.txt", b"0 cat\n1 dog\n2 bird\n"),
        ("semicolons.csv", b"0;cat\n2;bird\n1;dog\n"),
        ("names-first.csv", b"cat,0\nbird,2\ndog,1\n"),
        ("names-first.yaml", b"cat: 0\nbird: 2\ndog: 1\n"),
    ],
)
def test_a_label_file_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_labels(tmp_path / name) == Labels(ANIMALS)


WNIDS = ("n02121620", "n02084071", "n01503061")


@pytest.mark.guarantee("label-files")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "imagenet_class_index.json",
            b'{"0": ["n02121620", "cat"], "1": ["n02084071", "dog"], "2": ["n01503061", "bird"]}',
        ),
        ("pairs.json", b'[["n02121620", "cat"], ["n02084071", "dog"], ["n01503061", "bird"]]'),
        ("synset_words.txt", b"n02121620 cat\nn02084071 dog\nn01503061 bird\n"),
        ("ids.tsv", b"n02121620\tcat\nn02084071\tdog\nn01503061\tbird\n"),
        ("ids-last.tsv", b"cat\tn02121620\ndog\tn02084071\nbird\tn01503061\n"),
        ("index-id-name.tsv", b"1\tn02084071\tdog\n0\tn02121620\tcat\n2\tn01503061\tbird\n"),
        ("more-columns.tsv", b"n02121620\tcat\ta\nn02084071\tdog\tb\nn01503061\tbird\tc\n"),
        ("ids.csv", b"n02121620,cat\nn02084071,dog\nn01503061,bird\n"),
    ],
)
def test_wordnet_ids_in_a_label_file_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_labels(tmp_path / name) == Labels(ANIMALS, WNIDS)


@pytest.mark.parametrize("content", ["\n".join(WNIDS), '{"n02084071": 1, "n02121620": 0, "n01503061": 2}'])
def test_names_that_are_wordnet_ids_are_also_ids(tmp_path: Path, content: str) -> None:
    (tmp_path / "names").write_text(content)
    assert read_labels(tmp_path / "names") == Labels(WNIDS, WNIDS)


@pytest.mark.guarantee("label-files")
@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("10\n2\n7\n", ("10", "2", "7")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ('{"0": 1, "1": 0}', ("1", "0")),  # the values are numbers, so the keys are names
        ('{"0": "1", "1": "0"}', ("1", "0")),
        ('["1", "0"]', ("1", "0")),
        ("0\t7\n1\t5\n", ("7", "5")),
        ("7\t0\n5\t1\n", ("7", "5")),
        ("1 cent\n2 euro\n", ("1 cent", "2 euro")),
        ("room, 0\nroom, 1\n", ("room, 0", "room, 1")),
        ("cat\ncat\n", ("cat", "cat")),  # as ImageNet's cranes: the index tells them apart
        ("LABEL_0\nLABEL_1\n", ("LABEL_0", "LABEL_1")),
        ("[red]\n{blue}\n", ("[red]", "{blue}")),
    ],
)
def test_names_that_look_like_something_else_are_names(tmp_path: Path, content: str, names: tuple[str, ...]) -> None:
    (tmp_path / "names").write_text(content)
    assert read_labels(tmp_path / "names") == Labels(names)


def test_a_table_of_all_imagenet_classes_is_read(tmp_path: Path) -> None:
    rows = zip(range(1000), imagenet1k().wnids or (), imagenet1k().names, strict=True)
    (tmp_path / "imagenet.tsv").write_text("".join(f"{index}\t{wnid}\t{name}\n" for index, wnid, name in rows))
    assert read_labels(tmp_path / "imagenet.tsv") == imagenet1k()
    words = zip(imagenet1k().wnids or (), imagenet1k().names, strict=True)
    (tmp_path / "synset_words.txt").write_text("".join(f"{wnid} {name}, and a synonym\n" for wnid, name in words))
    assert read_labels(tmp_path / "synset_words.txt") == imagenet1k()


def test_a_name_may_contain_any_character_except_a_newline(tmp_path: Path) -> None:
    names = ("línea", "猫", "a\tb", "form\x0cfeed", "separator\u2028here", '"quoted", [red]')
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_labels(tmp_path / "names.txt") == Labels(names)


@pytest.mark.guarantee("label-files")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bytes.txt", b"caf\xe9\n", "utf-8"),
        ("heading.csv", b"index,label\n0,cat\n1,dog\n", "line 1 is a heading.*index,label"),
        ("heading-names-first.csv", b"label;index\ncat;0\ndog;1\n", "line 1 is a heading"),
        ("heading-of-ids.txt", b"id name\nn02121620 cat\nn02084071 dog\n", "line 1 is a heading"),
        ("map.yaml", b"names:\n  0: cat\n  1: dog\n", "line 1 is a heading.*names:"),
        ("list.yaml", b"names:\n- cat\n- dog\n", "line 1 is a heading.*names:"),
        ("broken.json", b'["cat", ', "Expecting value"),
        ("deep.json", b"[" * 200_000, "recursion"),
        ("number.json", b"7", "list of names"),
        ("numbers.json", b"[1, 2, 3]", "list of names"),
        ("nested.json", b'[["cat"], ["dog"]]', "list of names"),
        ("words.json", b'{"cat": "0", "dog": "1"}', "not keyed by class index.*cat"),
        ("flags.json", b'{"cat": false, "dog": true}', "not keyed by class index"),
        ("numbers-as-values.json", b'{"0": 7.5}', "found 7.5"),
        ("map-gap.json", b'{"cat": 0, "dog": 2}', "1 is missing among 2 labels"),
        ("map-from-one.json", b'{"cat": 1, "dog": 2}', "0 is missing"),
        ("map-negative.json", b'{"cat": -1, "dog": 0}', "without a gap"),
        ("map-twice.json", b'{"cat": 0, "dog": 0}', "same class index"),
        ("key-twice.json", b'{"0": "cat", "0": "dog"}', "'0' occurs twice"),
        ("name-twice.json", b'{"cat": 0, "cat": 1}', "'cat' occurs twice"),
        ("twice.txt", b'{"0": "cat", "0": "dog"}', "'0' occurs twice"),
        ("zeros.json", b'{"0": "cat", "00": "dog"}', "not keyed by class index.*00"),
        ("space.json", b'{"0": "cat", " 1": "dog"}', "not keyed by class index"),
        ("wide.json", '{"\uff10": "cat"}'.encode(), "not keyed by class index"),
        ("null.json", b'{"0": "cat", "1": null}', "found null"),
        ("no-id.json", b'{"0": ["cat", "x"]}', r'found \["cat", "x"\]'),
        ("three.json", b'{"0": ["n02123045", "cat", "x"]}', "found"),
        ("mixed.json", b'{"0": ["n02123045", "cat"], "1": "dog"}', "Some labels have a WordNet id and others do not"),
        ("empty.json", b"{}", "no labels"),
        ("empty-list.json", b"[]", "no labels"),
        ("empty-name.json", b'["cat", " "]', "the label of class 1 is empty"),
        ("generated.json", b'{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', "generated"),
        ("contradiction.json", b'{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}',
         "class 1 is dog in one and cat in the other"),
        ("id2label-list.json", b'{"id2label": ["cat", "dog"]}', "must be JSON objects"),
        ("annotations.json", b'{"classes": ["cat", "dog"]}', "not keyed by class index.*classes"),
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b"cat\n\ndog\n", "line 2 is empty"),
        ("utf-16.txt", "cat\n".encode("utf-16-le"), "NUL"),
        ("table.tsv", b"cat\ta feline\ndog\ta canine\n", "2 columns without class indices or WordNet ids"),
        ("header.tsv", b"index\tname\n0\tcat\n", "2 columns without"),
        ("table-gap.tsv", b"0\tcat\n2\tdog\n", "1 is missing"),
        ("table-twice.tsv", b"0\tcat\n0\tdog\n", "same class index"),
        ("from-one.csv", b"1,cat\n2,dog\n", "0 is missing"),
        ("gap.json", b'{"0": "cat", "2": "bird"}', "without a gap"),
        ("from-one.json", b'{"1": "cat", "2": "dog"}', "without a gap"),
    ],
)  # fmt: skip
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


COLLIDING = [index * sys.hash_info.modulus for index in range(80_000)]  # as keys of a dict, they take 10 s or more


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.json", json.dumps({str(number): "name" for number in COLLIDING})),
        ("names.json", json.dumps({f"name {number}": number for number in COLLIDING})),
        ("table.csv", "".join(f"{number},name\n" for number in COLLIDING)),
        ("lines.txt", "".join(f"{number}: name\n" for number in COLLIDING)),
    ],
)
def test_class_indices_whose_hashes_collide_take_no_longer_than_others(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    start = time.process_time()
    with suppress(RefusedError):  # in some formats they are a part of the names
        read_labels(tmp_path / name)
    assert time.process_time() - start < 5
