"""One input to classify. ``inputs`` lists them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from levit_cli.errors import InputError

if TYPE_CHECKING:
    from levit_cli.data.skipped import Skipped

STDIN = "-"
URL_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Input:
    """One input to classify.

    Args:
        path: a path, a URL, or ``-`` for an image on standard input.
        error: why it cannot be read, if that is already known, as for a folder without read permission.
        content: the bytes, once they were fetched from a URL, from standard input or with ``load``.
        load: returns the bytes of an input that is not a file of its own, such as the member of an archive; called in
            any thread. It raises ``InputError`` or ``OSError``.
        num_bytes: the size of such an input, if it is known.
        members: lists the images in an archive or a Parquet file that was not opened. It gets what counts the skipped
            members. Only ``InputOptions`` with ``opens_archives=False`` yields such inputs.
    """

    path: str
    error: InputError | None = None
    content: bytes | None = field(default=None, repr=False)
    load: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    num_bytes: int | None = field(default=None, repr=False, compare=False)
    members: "Callable[[Skipped], Iterator[Input]] | None" = field(default=None, repr=False, compare=False)

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN

    @property
    def size(self) -> int:
        """The size in bytes.

        Raises:
            OSError: the file is missing.
        """
        return os.stat(self.path).st_size if self.num_bytes is None else self.num_bytes


@dataclass(frozen=True)
class ImageColumns:
    """The columns of Parquet files that the user chose.

    Args:
        image: the column of images; None for the column ``image``, or the only one that can hold images.
        key: the column of the paths in the records; None for the name of the file and the number of the row.
    """

    image: str | None = None
    key: str | None = None


def is_url(text: str) -> bool:
    """Whether the text is a URL that is downloaded, not a path."""
    return text.lower().startswith(URL_SCHEMES)
