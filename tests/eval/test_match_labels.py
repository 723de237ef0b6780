"""Folders find their labels: to the letter, by WordNet id, loosely, by a synonym; or are refused with the reason."""

import pytest

from levit_cli.data.labels import Labels, imagenet1k, synonyms
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
def test_a_name_is_matched_however_it_is_written(folder: str, index: int) -> None:
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
        ("Felis_catus_nobody", None),
        ("n99999999", None),
        ("n021230450", None),
        ("n03126707", 517),  # one of the two cranes
    ],
)
def test_imagenet_is_found_by_id_and_by_every_synonym(folder: str, index: int | None) -> None:
    if index is None:
        with pytest.raises(RefusedError, match=folder):
            match([folder], imagenet1k())
    else:
        assert match([folder], imagenet1k()) == (index,)


def test_every_class_of_imagenet_is_found_by_its_id_and_by_its_full_list_of_names() -> None:
    labels = imagenet1k()
    assert labels.wnids is not None
    assert match(labels.wnids, labels) == tuple(range(1000))
    lists = [", ".join(names) for names in synonyms(labels)]
    alone = [index for index, names in enumerate(lists) if lists.count(names) == 1]
    named_as_another = [index for index in alone if labels.names.count(lists[index]) > 1]
    wanted = [index for index in alone if index not in named_as_another]
    assert len(wanted) > 990
    assert match([lists[index] for index in wanted], labels) == tuple(wanted)


def test_the_stricter_way_wins() -> None:
    labels = Labels(("cat", "Cat", "tabby, cat"))
    assert match(["Cat", "cat"], labels) == (1, 0)
    assert match(["tabby"], labels) == (2,)


@pytest.mark.parametrize(
    ("labels", "folder", "said"),
    [
        (imagenet1k(), "crane", ["n02012849 (crane)", "n03126707 (crane)", "WordNet id"]),
        (Labels(("cat", "Cat")), "CAT", ["cat, Cat", "exact label"]),
        (Labels(("cat, pet", "dog, pet")), "pet", ["cat, pet", "dog, pet"]),
        (Labels(("cat", "cat")), "cat", ["2 classes"]),
    ],
)
def test_a_name_that_could_mean_two_classes_is_refused(labels: Labels, folder: str, said: list[str]) -> None:
    with pytest.raises(RefusedError) as caught:
        match([folder], labels)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert all(words in str(caught.value) for words in [folder, *said])


def test_folders_without_a_label_are_all_named_and_so_is_what_the_model_knows() -> None:
    with pytest.raises(RefusedError, match="2 folders have no label in the model: horse, zebra") as caught:
        match(["cat", "horse", "zebra"], ANIMALS)
    assert "5 classes: cat, Dog" in str(caught.value)
    with pytest.raises(RefusedError, match=r"^1 folder has no label"):
        match(["horse"], ANIMALS)


def test_many_folders_without_a_label_are_counted() -> None:
    with pytest.raises(RefusedError, match=r"50 folders .*x0, x1, .*x19, … \(30 more\)"):
        match([f"x{number}" for number in range(50)], ANIMALS)


def test_two_folders_of_one_class_are_refused() -> None:
    with pytest.raises(RefusedError, match="Cat and cat mean the same class, cat"):
        match(["Cat", "cat"], ANIMALS)
    with pytest.raises(RefusedError, match="n02123045 and tabby mean the same class"):
        match(["n02123045", "tabby"], imagenet1k())


def test_a_name_with_control_characters_is_shown_and_not_sent() -> None:
    with pytest.raises(RefusedError) as caught:
        match(["\x1b[31mred"], ANIMALS)
    assert "\\x1b[31mred" in str(caught.value)
