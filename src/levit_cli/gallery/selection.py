"""Select the results that a page shows, and count all of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from levit_cli.gallery.thumbnails import Thumbnail
from levit_cli.predict.results import Result
from levit_cli.system.text import count_noun

MAX_CLASSES = 10  # classes of an image
MAX_ERRORS = 2_000  # error records that are listed; a page with more would be too large


@dataclass(frozen=True)
class Shown:
    """A result on the page.

    Args:
        thumbnail: the image, or why it cannot be shown; None for an error record.
        link: the URL of its file relative to the page; empty for none.
        is_changed: whether its file was changed after the results were written.
    """

    result: Result
    thumbnail: Thumbnail | None = None
    link: str = ""
    is_changed: bool = False


@dataclass
class Selection:
    """The results that a page shows: the first ones.

    Attributes:
        images: results with classes.
        errors: results that are errors.
        num_images, num_errors: the numbers of all results in the file.
        num_labels: the number of different first classes of all results.
    """

    images: list[Result] = field(default_factory=list)
    errors: list[Result] = field(default_factory=list)
    num_images: int = 0
    num_labels: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def num_errors(self) -> int:
        return self.kinds.total()

    @property
    def summary(self) -> str:
        labels = f" in {count_noun(self.num_labels, 'class')}" if self.num_labels else ""
        return f"{count_noun(self.num_images, 'image')}{labels}, {count_noun(self.num_errors, 'error')}"


def select(results: Iterable[Result], max_images: int) -> Selection:
    """Return the first ``max_images`` images and the first errors, and count the others.

    Raises:
        UsageError: the results cannot be read.
    """
    selection, labels = Selection(), set()
    for result in results:
        if result.error is not None:
            selection.kinds[result.error.kind] += 1
            if len(selection.errors) < MAX_ERRORS:
                selection.errors.append(result)
            continue
        selection.num_images += 1
        labels.add(result.top[0][:2])
        if len(selection.images) < max_images:
            selection.images.append(replace(result, top=result.top[:MAX_CLASSES]))
    selection.num_labels = len(labels)
    return selection
