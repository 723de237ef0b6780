"""Read labeled images from the rows of a Parquet file, such as an image data set of Hugging Face.

The label is a name, or a number. Hugging Face stores the names of the numbers in the metadata of the file. The images
stay in the order of the rows, in which they can be read without going back.
"""

from collections.abc import Sequence
from pathlib import Path

from levit_cli.data.image_folder import ClassFolders, listed
from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.labels import composed
from levit_cli.data.parquet import labeled_rows_of_file
from levit_cli.data.remote.names import url_of
from levit_cli.data.skipped import PARQUET_SUFFIX, Skipped
from levit_cli.errors import InputError, UsageError


def is_parquet(path: Path) -> bool:
    """Whether this is a Parquet file, by its name."""
    return path.name.lower().endswith(PARQUET_SUFFIX) and not path.is_dir() and url_of(path) is None


def read_labeled_rows(path: Path, columns: ImageColumns, skipped: Skipped) -> ClassFolders:
    """Return the images and their labels.

    Raises:
        UsageError: the file cannot be read, has no label column, or has rows without a label. The message names them.
    """
    try:
        images, labels = labeled_rows_of_file(str(path), columns)
    except InputError as error:
        raise UsageError(f"Cannot read {path}", why=error.message) from error
    if unlabeled := [f"row {number}" for number, label in enumerate(labels) if label is None]:
        raise UsageError(f"{path} has rows without a label", why=listed(unlabeled))
    if not images:
        raise UsageError(f"{path} has no rows")
    return _as_classes(path, images, [composed(label) for label in labels if label is not None], skipped)


def _as_classes(path: Path, images: Sequence[Input], labels: Sequence[str], skipped: Skipped) -> ClassFolders:
    classes = tuple(sorted({*labels}))
    indices = {name: index for index, name in enumerate(classes)}
    samples = tuple((image, indices[label]) for image, label in zip(images, labels, strict=True))
    return ClassFolders(path, classes, samples, skipped)
