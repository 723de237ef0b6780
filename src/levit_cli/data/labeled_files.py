"""Read labeled images from one file: an archive of class folders, a CSV file of paths and labels, or a Parquet file.

An archive is read as the folder would be from which it was made. If everything in it is in one folder, that folder is
the data set. Its images are read from it in any order, so a tar archive must not be compressed. The images of a Parquet
file are copied to a temporary file, because its rows can only be read in their order.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from levit_cli.data.archives import SEPARATOR, members_of_file
from levit_cli.data.image_copy import copied
from levit_cli.data.image_folder import LAYOUT, TRAIN_NAMES, VAL_NAMES, ClassFolders, Sample, listed
from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.labeled_rows import is_parquet, read_labeled_rows
from levit_cli.data.labels import composed
from levit_cli.data.remote.names import url_of
from levit_cli.data.skipped import PARQUET_SUFFIX, READ_ARCHIVE_SUFFIXES, SUFFIXES, Skipped
from levit_cli.errors import InputError, UsageError, reason_of
from levit_cli.system.files import open_regular

CSV_SUFFIX = ".csv"
ROW_SEPARATOR = "#"
COLUMNS = ("path", "label")


class Halves(NamedTuple):
    """The training and the validation images of a data set; ``val`` is None if they are not separated.

    Args:
        is_val_only: ``train`` is the validation half; there is no other.
    """

    train: ClassFolders
    val: ClassFolders | None = None
    is_val_only: bool = False


def is_labeled_file(path: Path) -> bool:
    """Whether this is a file that may contain labeled images, by its name."""
    has_suffix = path.name.lower().endswith((*READ_ARCHIVE_SUFFIXES, CSV_SUFFIX, PARQUET_SUFFIX))
    return has_suffix and not path.is_dir() and url_of(path) is None


def base_of(root: Path) -> str:
    """Return what the paths of the images begin with: the folder of a CSV file, the archive or the Parquet file."""
    if root.name.lower().endswith(CSV_SUFFIX):
        return os.path.join(root.parent, "")
    return f"{root}{ROW_SEPARATOR if is_parquet(root) else SEPARATOR}"


def path_in(root: Path, key: str) -> str:
    """Return the path of an image from the part of it after ``base_of``."""
    is_absolute = root.name.lower().endswith(CSV_SUFFIX) and os.path.isabs(key)
    return key if is_absolute else base_of(root) + key


def read_labeled_file(root: Path, skipped: Skipped) -> Halves:
    """Return the labeled images of an archive, a CSV file or a Parquet file, readable in any order.

    Raises:
        UsageError: the file cannot be read, or contains no labeled images. The message names all such classes or lines.
        OutputError: the images of a Parquet file cannot be copied.
    """
    if is_parquet(root):
        return Halves(_in_any_order(read_labeled_rows(root, ImageColumns(), skipped)))
    if root.name.lower().endswith(CSV_SUFFIX):
        return Halves(_read_csv(root, skipped))
    return _halves(_in_one_folder(_Tree(str(root), (*_archived(root, skipped),))), skipped)


def _in_any_order(rows: ClassFolders) -> ClassFolders:
    images = copied(str(rows.root), (image for image, _ in rows.samples))
    labels = (index for _, index in rows.samples)
    return replace(rows, samples=tuple(zip(images, labels, strict=True)))


class _Image(NamedTuple):
    """An image in an archive, and the components of its path below the folder that is looked at."""

    parts: tuple[str, ...]
    item: Input


def _archived(root: Path, skipped: Skipped) -> list[_Image]:
    """Return the images in an archive."""
    images = []
    for item in members_of_file(str(root), skipped):
        if not item.path.startswith(base_of(root)):
            why = item.error.message if item.error else "it is not an archive"
            raise UsageError(f"Cannot read {root}", why=why, hint=LAYOUT)
        if item.content is not None:
            why = "a compressed tar archive can only be read front to back, and the images are needed in another order"
            raise UsageError(f"Cannot use {root}", why=why, hint="decompress it to a .tar file, or use a zip archive")
        parts = (part for part in item.path.removeprefix(base_of(root)).split("/") if part not in ("", "."))
        images.append(_Image((*parts,), item))
    return images


@dataclass(frozen=True)
class _Tree:
    """A folder in an archive.

    Args:
        name: the archive and the folder.
    """

    name: str
    images: tuple[_Image, ...]

    def folder(self, names: Iterable[str]) -> "_Tree | None":
        """Return the first of these folders that contains class folders."""
        for name in names:
            images = tuple(image for image in self.images if image.parts[0] == name)
            if any(len(image.parts) > 2 for image in images):
                separator = "/" if SEPARATOR in self.name else SEPARATOR
                inside = tuple(image._replace(parts=image.parts[1:]) for image in images)
                return _Tree(f"{self.name}{separator}{name}", inside)
        return None


def _in_one_folder(tree: _Tree) -> _Tree:
    """Return the only folder in a folder, as long as it contains class folders and is neither train nor val."""
    while len(names := {image.parts[0] for image in tree.images}) == 1 and not names & {*TRAIN_NAMES, *VAL_NAMES}:
        inner = tree.folder(names)
        if inner is None or not all(len(image.parts) > 1 for image in inner.images):
            break
        tree = inner
    return tree


def _halves(tree: _Tree, skipped: Skipped) -> Halves:
    train, val = tree.folder(TRAIN_NAMES), tree.folder(VAL_NAMES)
    others = {image.parts[0] for image in tree.images} - {*TRAIN_NAMES, *VAL_NAMES}
    if train and val:
        for image in tree.images:
            if image.parts[0] in others:
                skipped.add(image.item.path, "no class")
        return Halves(_classes(train, skipped), _classes(val, skipped))
    if (half := train or val) and not others:
        return Halves(_classes(half, skipped), is_val_only=half is val)
    return Halves(_classes(tree, skipped))


def _classes(tree: _Tree, skipped: Skipped) -> ClassFolders:
    images: dict[str, list[_Image]] = {}
    spellings: dict[str, set[str]] = {}
    for image in tree.images:
        if len(image.parts) < 2 or ".." in image.parts:
            skipped.add(image.item.path, "no class")
            continue
        name = composed(image.parts[0])
        images.setdefault(name, []).append(image)
        spellings.setdefault(name, set()).add(image.parts[0])
    if twice := [names for names in spellings.values() if len(names) > 1]:
        shown = "; ".join(" and ".join(map(ascii, sorted(names))) for names in twice)
        raise UsageError(f"Folders in {tree.name} have the same name in Unicode", why=shown, hint="rename them")
    if not images:
        why = f"looked for {' '.join(SUFFIXES)}" + (f"; skipped {skipped.summary()}" if skipped.counts else "")
        raise UsageError(f"No class folders with images in {tree.name}", why=why)
    classes = tuple(sorted(images))
    samples = tuple(
        (image.item, index) for index, name in enumerate(classes) for image in sorted(images[name], key=_parts_of)
    )
    return ClassFolders(Path(tree.name), classes, samples, skipped)


def _parts_of(image: _Image) -> tuple[str, ...]:
    return image.parts


def _read_csv(root: Path, skipped: Skipped) -> ClassFolders:
    """Return the images of a CSV file. Relative paths are relative to its folder."""
    try:
        with open_regular(str(root)) as file:
            text = file.read().decode("utf-8-sig", "surrogateescape")
        rows = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (InputError, OSError, csv.Error) as error:
        raise UsageError(f"Cannot read {root}", why=reason_of(error)) from error
    pairs = [*_pairs(root, rows)]
    if not pairs:
        raise UsageError(f"{root} lists no images")
    classes = tuple(sorted({label for _, label in pairs}))
    indices = {name: index for index, name in enumerate(classes)}
    samples: list[Sample] = [(Input(os.path.join(root.parent, path)), indices[label]) for path, label in pairs]
    samples.sort(key=lambda sample: sample[1])  # stable: within a class, in the order of the file
    return ClassFolders(root, classes, tuple(samples), skipped)


def _pairs(root: Path, rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield the paths and labels of a table."""
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if not {*COLUMNS} <= {*header}:
        found = ", ".join(header) or "nothing"
        raise UsageError(f"{root} has no columns named path and label", why=f"its first line has {found[:80]}")
    path_at, label_at = map(header.index, COLUMNS)
    incomplete = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        path, label = (row[at].strip() if at < len(row) else "" for at in (path_at, label_at))
        if path and label:
            yield path, composed(label)
        else:
            incomplete.append(f"row {number}")
    if incomplete:
        raise UsageError(f"{root} has rows without a path or a label", why=listed(incomplete))
