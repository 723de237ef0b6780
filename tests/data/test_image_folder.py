"""Class folders are read by the rules of torchvision."""

import os
from pathlib import Path

import pytest

from levit_cli.data.image_folder import class_folders, split_folders
from levit_cli.data.input import Input
from levit_cli.errors import UsageError
from levit_cli.predict.reader import read_image
from tests.support.sample_images import sample_image


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_samples_and_class_indices_equal_those_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    names = ("b/2.png", "b/10.jpg", "a b/x.JPEG", "a b/deep/er/y.webp", "Z/1.tiff", "b/notes.txt")
    touch(*(tmp_path / name for name in names))
    ours, theirs = class_folders(tmp_path), datasets.ImageFolder(str(tmp_path))
    assert list(ours.classes) == theirs.classes == ["Z", "a b", "b"]
    assert sorted((image.path, index) for image, index in ours.samples) == sorted(theirs.samples)
    assert ours.counts == (1, 2, 2)


def test_hidden_entries_are_neither_classes_nor_images(tmp_path: Path) -> None:
    touch(
        tmp_path / "a" / "1.png", tmp_path / ".git" / "1.png", tmp_path / "a" / ".x" / "2.png", tmp_path / "a/._1.png"
    )
    assert class_folders(tmp_path).samples == ((Input(str(tmp_path / "a" / "1.png")), 0),)


@pytest.mark.guarantee("skipped-training-files")
def test_what_is_skipped_is_counted_with_its_reason(tmp_path: Path) -> None:
    touch(
        *(
            tmp_path / "a" / name
            for name in ("1.jpg", "2.jfif", "3.JPE", "4.mpo", "5.dng", "6.DNG", "notes.txt", "raw")
        ),
        *(tmp_path / "b" / name for name in ("1.png", "._1.png", "@eaDir/1.png", ".thumbnails/1.png", "deep/2.png")),
        *(tmp_path / name for name in ("__MACOSX/1.png", "@eaDir/1.png", ".ipynb_checkpoints/1.png", "README.md")),
        *(tmp_path / "run" / name for name in ("config.toml", "state.pt", "curves.png")),
        *(tmp_path / "b" / "model" / name for name in ("config.json", "model.safetensors", "x.png")),
    )
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    folders = class_folders(tmp_path)
    assert folders.classes == ("a", "b")
    assert [Path(image.path).name for image, _ in folders.samples] == [
        "1.jpg",
        "2.jfif",
        "3.JPE",
        "4.mpo",
        "1.png",
        "2.png",
    ]
    assert folders.skipped.counts == {
        "format": 2, "suffix": 2, "hidden": 1, "system folder": 5, "no class": 1, "run folder": 2, "loop": 1,
    }  # fmt: skip
    sentence = folders.skipped.sentence()
    for part in ("(.dng)", "(.ipynb_checkpoints, .thumbnails, @eaDir, __MACOSX)", "2 run or model folders"):
        assert part in sentence


@pytest.mark.guarantee("skipped-training-files")
def test_jpegs_under_other_suffixes_can_be_decoded(tmp_path: Path) -> None:
    for suffix in ("jfif", "jpe"):
        sample_image().save(tmp_path / f"x.{suffix}", format="JPEG")
    sample_image().save(tmp_path / "x.mpo", format="MPO", save_all=True, append_images=[sample_image(seed=1)])
    for path in tmp_path.iterdir():
        assert read_image(Input(str(path))).size == sample_image().size


def test_an_unreadable_class_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "1.png")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UsageError, match=r"Cannot read the folder .* · Permission denied"):
        class_folders(tmp_path)


def test_symbolic_links_are_followed_but_not_in_cycles(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png", tmp_path / "elsewhere" / "3.png")
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).rename(root / name)
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "self").symlink_to(root / "b")
    samples = [(os.path.relpath(image.path, root), index) for image, index in class_folders(root).samples]
    assert samples == [("a/1.png", 0), ("a/more/3.png", 0), ("b/2.png", 1)]


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "No class folders"), (("1.png",), "No class folders"), (("a/1.png", "b/notes.txt"), "No images in .*b")],
)
def test_a_folder_without_classes_or_images_is_an_error(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(*(tmp_path / name for name in names))
    with pytest.raises(UsageError, match=message):
        class_folders(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No folder"):
        class_folders(tmp_path / "none")


def test_training_and_validation_folders_are_recognized(tmp_path: Path) -> None:
    touch(tmp_path / "train/a/1.png", tmp_path / "test/a/1.png")
    assert split_folders(tmp_path) == (tmp_path / "train", tmp_path / "test")
    touch(tmp_path / "val/a/1.png")
    assert split_folders(tmp_path) == (tmp_path / "train", tmp_path / "val")


def test_a_folder_of_classes_is_not_split(tmp_path: Path) -> None:
    touch(tmp_path / "a/1.png")
    assert split_folders(tmp_path) == (tmp_path, None)


def test_a_training_folder_without_a_validation_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "train/a/1.png")
    with pytest.raises(UsageError, match="val/ or test/"):
        split_folders(tmp_path)
