"""Labeled images in archives of class folders and in CSV files are those of the folders."""

import gc
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import pytest

from levit_cli.data.image_folder import ClassFolders, class_folders
from levit_cli.data.labeled_files import Halves, read_labeled_file
from levit_cli.data.skipped import Skipped
from levit_cli.errors import InputError, OutputError, UsageError
from levit_cli.predict.reader import read_image
from tests.support.archives import tar_of_folder, write_tar, zip_of_folder
from tests.support.extras import needs_parquet
from tests.support.sample_images import write_class_folders

Pack = Callable[[Path, Path], Path]


def names_of(folders: ClassFolders, base: str) -> list[tuple[str, str]]:
    assert all(image.path.startswith(base) for image, _ in folders.samples)
    return [(image.path.removeprefix(base), folders.classes[index]) for image, index in folders.samples]


def halves_of(path: Path, skipped: Skipped | None = None) -> Halves:
    return read_labeled_file(path, skipped or Skipped())


@pytest.mark.guarantee("labeled-files")
@pytest.mark.parametrize(("pack", "suffix"), [(tar_of_folder, ".tar"), (zip_of_folder, ".zip")])
def test_an_archive_has_the_classes_and_images_of_its_folder(pack: Pack, suffix: str, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "set", ("b", "a b", "é"), 2, "png")
    path = pack(tmp_path / f"x{suffix}", root)
    folders, halves = class_folders(root), halves_of(path)
    assert halves.val is None
    assert halves.train.classes == folders.classes
    assert names_of(halves.train, f"{path}!/") == names_of(folders, f"{root}/")
    for (member, _), (file, _) in zip(halves.train.samples, folders.samples, strict=True):
        assert read_image(member).tobytes() == read_image(file).tobytes()
        assert member.size == file.size


@pytest.mark.parametrize("wrapper", ["", "imagenet/", "a/b/"])
def test_train_and_val_are_found_also_in_a_folder(wrapper: str, tmp_path: Path) -> None:
    names = ["train/n01/1.jpg", "train/n02/x/2.jpg", "val/n01/3.jpg", "docs/n03/4.jpg", "train/5.jpg", "notes.txt"]
    skipped = Skipped()
    train, val, is_val_only = halves_of(write_tar(tmp_path / "x.tar", {wrapper + name: b"" for name in names}), skipped)
    assert not is_val_only
    assert val is not None
    base = f"{tmp_path}/x.tar!/{wrapper}"
    assert names_of(train, base) == [("train/n01/1.jpg", "n01"), ("train/n02/x/2.jpg", "n02")]
    assert names_of(val, base) == [("val/n01/3.jpg", "n01")]
    assert str(train.root) == f"{base}train"
    assert skipped.counts == {"no class": 2, "suffix": 1}


def test_names_that_climb_out_are_no_classes(tmp_path: Path) -> None:
    skipped = Skipped()
    names = ["../x/1.jpg", "a/../../2.jpg", "a/3.jpg", "/b/4.jpg"]
    train, *_ = halves_of(write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"")), skipped)
    assert train.classes == ("a", "b")
    assert skipped.counts == {"no class": 2}


def test_a_validation_half_alone(tmp_path: Path) -> None:
    halves = halves_of(write_tar(tmp_path / "x.tar", {"val/a/1.jpg": b"", "val/b/1.jpg": b""}))
    assert halves.is_val_only
    assert halves.train.classes == ("a", "b")
    classes = halves_of(write_tar(tmp_path / "y.tar", {"val/a/1.jpg": b"", "cat/1.jpg": b""})).train.classes
    assert classes == ("cat", "val")  # a class that is called val


@pytest.mark.guarantee("labeled-files")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tar", {"a.jpg": b""}, "No class folders"),
        ("x.tar", {}, "No class folders"),
        ("x.tar", {"n01440764.tar": b"", "n01443537.tar": b""}, "skipped 2 archives"),
        ("x.tar", {"é/1.jpg": b"", "e\u0301/1.jpg": b""}, "the same name in Unicode"),
        ("x.tar.gz", {"a/1.jpg": b""}, "decompress"),
        ("x.tar", b"no archive", "Cannot read"),
        ("missing.tar", None, "no such file"),
        ("x.csv", b"", "no columns named path and label"),
        ("x.csv", b"file,class\na,b\n", "file, class"),
        ("x.csv", b"path,label\n", "lists no images"),
        ("x.csv", b"path,label\na.jpg,\nb.jpg,b\n", "row 2"),
        ("x.csv", b'path,label\n"a.jpg,b\n', "Cannot read"),
        ("missing.csv", None, "no such file"),
    ],
)
def test_a_file_without_labeled_images_is_refused(
    name: str, content: dict[str, bytes] | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        folder = tmp_path / "set"
        folder.mkdir()
        for inner, data in content.items():
            (folder / inner).parent.mkdir(exist_ok=True)
            (folder / inner).write_bytes(data)
        tar_of_folder(path, folder)
    with pytest.raises(UsageError, match=message):
        halves_of(path)


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a/1.jpg": b"a" * 2000, "b/1.jpg": b"b"})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UsageError, match="ends after"):
        halves_of(path)


@pytest.mark.guarantee("labeled-files")
def test_a_csv_lists_images_relative_to_its_folder(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "set", ("a", "b"), 2)
    lines = ["Label,note,PATH", "dog,x,b/001.jpg", "", "cat,,a/000.jpg", f'"dog, old",,{root}/a/001.jpg']
    (root / "list.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    halves = halves_of(root / "list.csv")
    assert halves.val is None
    assert names_of(halves.train, f"{root}/") == [("a/000.jpg", "cat"), ("b/001.jpg", "dog"), ("a/001.jpg", "dog, old")]


def test_only_line_feeds_end_the_rows_of_a_csv(tmp_path: Path) -> None:
    names = ["a\u2028b.jpg", "c\x85d.jpg", "e\x1cf.jpg"]
    rows = "".join(f"{name},cat\n" for name in names)
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}", encoding="utf-8")
    train = halves_of(tmp_path / "list.csv").train
    assert names_of(train, f"{tmp_path}/") == [(name, "cat") for name in names]


@needs_parquet
@pytest.mark.guarantee("labeled-files")
def test_the_rows_of_a_parquet_file_can_be_read_in_any_order_and_in_other_processes(tmp_path: Path) -> None:
    contents: list[tuple[bytes | None, str]] = [(bytes([number]) * number, "ab"[number % 2]) for number in range(50)]
    path = write_rows(tmp_path / "x.parquet", [*contents, (None, "a")])
    halves = halves_of(path)
    assert halves.val is None
    assert halves.train.classes == ("a", "b")
    samples = [*halves.train.samples]
    assert [image.path for image, _ in samples] == [f"{path}#{number}" for number in range(51)]
    assert [(image.size, "ab"[index]) for image, index in samples[:-1]] == [(len(row or b""), c) for row, c in contents]
    with get_context("spawn").Pool(1) as pool:
        loads = [image.load for image, _ in samples[:-1]]
        assert pool.map(content_of, loads[::-1]) == [row for row, _ in reversed(contents)]
    assert [content_of(load) for load in loads[::-1]] == [row for row, _ in reversed(contents)]
    with pytest.raises(InputError):
        content_of(samples[-1][0].load)


@needs_parquet
def test_the_copy_of_a_parquet_file_is_removed_with_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    halves = halves_of(write_rows(tmp_path / "x.parquet", [(b"1", "a"), (b"2", "b")]))
    assert len([*temporary.iterdir()]) == 1
    del halves
    gc.collect()
    assert [*temporary.iterdir()] == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="Cannot copy the images") as caught:
        halves_of(tmp_path / "x.parquet")
    assert "TMPDIR" in str(caught.value.hint)


def write_rows(path: Path, rows: Sequence[tuple[bytes | None, str]]) -> Path:
    """Write images and labels in row groups of 8, as the library datasets does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [None if content is None else {"bytes": content, "path": None} for content, _ in rows]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(images, kind), "label": [label for _, label in rows]})
    pq.write_table(table, path, row_group_size=8)
    return path


def content_of(load: Callable[[], bytes] | None) -> bytes:
    assert load is not None
    return load()
