"""Folder names match labels exactly, by WordNet id, regardless of case and spacing, or by a synonym; else an error."""

import pytest

from levit_cli.data.labels import Labels, imagenet1k, numbered, synonyms
from levit_cli.errors import ExitCode, RefusedError
from levit_cli.eval.match_labels import match

ANIMALS = Labels(("cat", "Dog", "guinea pig", "tabby, tabby cat", "café"))


@pytest.mark.parametrize(
    ("folder", "index"),
    [
        ("cat", 0),
        ("CAT", 0),
        ("dog", 1),
        ("guinea_pig", 2),
        ("Guinea  Pig", 2),
        ("GUINEA_PIG ", 2),
        ("tabby, tabby cat", 3),
        ("tabby", 3),
        ("Tabby_Cat", 3),
        ("cafe\N{COMBINING ACUTE ACCENT}", 4),
    ],
)
def test_case_underscores_and_spaces_do_not_matter(folder: str, index: int) -> None:
    assert match([folder], ANIMALS) == (index,)


@pytest.mark.parametrize(
    ("folder", "index"),
    [
        ("n02123045", 281),
        ("n02123045-tabby", 281),
        ("n02123045_not_a_tabby_at_all", 281),
        ("tabby", 281),
        ("tabby cat", 281),
        ("tabby, tabby cat", 281),
        ("Felis_catus_unknown", None),
        ("n99999999", None),
        ("n021230450", None),
        ("n03126707", 517),  # one of the two cranes
    ],
)
def test_imagenet_classes_match_by_wordnet_id_and_by_any_synonym(folder: str, index: int | None) -> None:
    if index is None:
        with pytest.raises(RefusedError, match=folder):
            match([folder], imagenet1k())
    else:
        assert match([folder], imagenet1k()) == (index,)


def test_every_imagenet_class_matches_by_its_id_and_by_its_full_list_of_names() -> None:
    labels = imagenet1k()
    assert labels.wnids is not None
    assert match(labels.wnids, labels) == tuple(range(1000))
    lists = [", ".join(names) for names in synonyms(labels)]
    unique = [index for index, names in enumerate(lists) if lists.count(names) == 1]
    label_of_another = [index for index in unique if labels.names.count(lists[index]) > 1]
    unambiguous = [index for index in unique if index not in label_of_another]
    assert len(unambiguous) > 990
    assert match([lists[index] for index in unambiguous], labels) == tuple(unambiguous)


def test_a_stricter_rule_takes_precedence() -> None:
    labels = Labels(("cat", "Cat", "tabby, cat"))
    assert match(["Cat", "cat"], labels) == (1, 0)
    assert match(["tabby"], labels) == (2,)


@pytest.mark.parametrize(
    ("labels", "folder", "words"),
    [
        (imagenet1k(), "crane", ["n02012849 (crane)", "n03126707 (crane)", "WordNet id"]),
        (Labels(("cat", "Cat")), "CAT", ["cat, Cat", "exact label"]),
        (Labels(("cat, pet", "dog, pet")), "pet", ["cat, pet", "dog, pet"]),
        (Labels(("cat", "cat")), "cat", ["2 classes"]),
    ],
)
def test_a_name_that_matches_two_classes_is_an_error(labels: Labels, folder: str, words: list[str]) -> None:
    with pytest.raises(RefusedError) as caught:
        match([folder], labels)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert all(word in str(caught.value) for word in [folder, *words])


def test_a_label_in_another_unicode_form_matches_before_case_is_ignored() -> None:
    labels = Labels(("CAF\u00c9", "caf\u00e9"))
    assert match(["cafe\u0301", "CAFE\u0301"], labels) == (1, 0)


def test_the_error_names_all_folders_without_a_label_and_the_first_labels() -> None:
    with pytest.raises(RefusedError, match="2 folders match no label of the model: horse, zebra") as caught:
        match(["cat", "horse", "zebra"], ANIMALS)
    assert "5 classes: cat, Dog" in str(caught.value)
    with pytest.raises(RefusedError, match=r"^1 folder matches no label"):
        match(["horse"], ANIMALS)


def test_the_error_counts_the_folders_that_it_does_not_name() -> None:
    with pytest.raises(RefusedError, match=r"50 folders .*x0, x1, .*x19, … \(30 more\)"):
        match([f"x{number}" for number in range(50)], ANIMALS)


def test_two_folders_of_the_same_class_are_an_error() -> None:
    with pytest.raises(RefusedError, match="Cat and cat match the same class, cat"):
        match(["Cat", "cat"], ANIMALS)
    with pytest.raises(RefusedError, match="n02123045 and tabby match the same class"):
        match(["n02123045", "tabby"], imagenet1k())


def test_control_characters_in_a_name_are_shown_as_escapes() -> None:
    with pytest.raises(RefusedError) as caught:
        match(["\x1b[31mred"], ANIMALS)
    assert "\\x1b[31mred" in str(caught.value)


ACUTE = "\N{COMBINING ACUTE ACCENT}"


@pytest.mark.parametrize("names", [("café", "Café"), (f"cafe{ACUTE}", f"Cafe{ACUTE}"), (f"cafe{ACUTE}", "Café")])
@pytest.mark.parametrize("folders", [("café", "Café"), (f"cafe{ACUTE}", f"Cafe{ACUTE}"), ("café", f"Cafe{ACUTE}")])
def test_composed_and_separate_accents_are_the_same_name(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    assert match(folders, Labels(names)) == (0, 1)


def test_labels_that_differ_only_in_the_form_of_an_accent_match_exactly() -> None:
    labels = Labels(("café", f"cafe{ACUTE}"))
    assert match([f"cafe{ACUTE}", "café"], labels) == (1, 0)


def test_two_forms_of_one_name_are_the_same_class() -> None:
    with pytest.raises(RefusedError, match="match the same class, café"):
        match(["café", f"cafe{ACUTE}"], Labels(("café", "tea")))


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("LABEL_0", "LABEL_1"), (1, 0)),
        (("LABEL_1", "LABEL_0"), (0, 1)),
        (("10", "2", "0"), (0, 2, 1)),
        (("1", "01", "1.0"), (1, 0, 2)),
        (("class 1", "class 0"), (1, 0)),
        (("train", "val", "test"), (2, 0, 1)),
        (("None", "nan", "true"), (1, 0, 2)),
        (("caf\udce9", "café"), (1, 0)),
    ],
)
def test_a_name_is_never_taken_for_an_index(names: tuple[str, ...], folders: tuple[int, ...]) -> None:
    assert match([names[index] for index in folders], Labels(names)) == folders


def test_folders_with_the_placeholder_names_of_transformers_match_a_model_without_names() -> None:
    """Such a model's labels are ``class 0`` and so on here; its config has ``LABEL_0`` and so on."""
    assert match(["LABEL_2", "class 0", "LABEL_1"], numbered(3)) == (2, 0, 1)
    with pytest.raises(RefusedError, match="LABEL_1"):
        match(["LABEL_1"], Labels(("class 0", "dog")))
    with pytest.raises(RefusedError, match="LABEL_3"):
        match(["LABEL_3"], numbered(3))


@pytest.mark.parametrize("folders", [("caf\udce9",), ("tea", "caf\udce9"), ("tea", "TEA", "caf\udce9")])
def test_a_folder_name_that_is_not_utf_8_is_named_in_the_error(folders: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match=r"caf\\udce9") as caught:
        match(folders, Labels(("tea", "coffee")))
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        (("a\x1b\udce9", "b"), ("a\x1b\udce9", "a\x1b\udce9 ")),
        (("a\x1b\udce9", "b"), ("c",)),
        (("a\x1b\udce9", "A\x1b\udce9"), ("a\x1b\udce9 ",)),
    ],
    ids=["same class", "no class", "two classes"],
)
def test_labels_in_a_message_are_shown_with_escapes(labels: tuple[str, ...], folders: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError) as caught:
        match(folders, Labels(labels))
    assert "a\\x1b\\udce9" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "\udce9" not in str(caught.value)
