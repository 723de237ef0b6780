"""One input to classify. ``inputs`` lists them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from levit_cli.errors import InputError

STDIN = "-"
URL_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Input:
    """One input to classify.

    Args:
        path: a path, a URL, or ``-`` for an image on standard input.
        error: why it cannot be read, if that is already known, as for a folder without read permission.
        content: the bytes, once they were fetched from a URL, from standard input or with ``load``.
        load: returns the bytes of an input that is not a file of its own, such as the member of an archive; called at
            most once, in any thread. It raises ``InputError`` or ``OSError``.
    """

    path: str
    error: InputError | None = None
    content: bytes | None = field(default=None, repr=False)
    load: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN


def is_url(text: str) -> bool:
    """Whether the text is a URL that is downloaded, not a path."""
    return text.lower().startswith(URL_SCHEMES)
