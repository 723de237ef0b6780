"""Make the thumbnails of a gallery: decode the images again, in processes of their own, and encode small copies.

Decoding in processes costs little, because only the small copies are sent back. A decoder that crashes or hangs then
fails one image and not the page.
"""

import base64
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from levit_cli.data.input import Input
from levit_cli.errors import InputError
from levit_cli.images.decode import decode
from levit_cli.images.thumbnail import thumbnail
from levit_cli.predict.prefetch import DecodeOptions, Decoder, Prefetcher
from levit_cli.predict.reader import Fetcher, read_image, reading
from levit_cli.system.progress import Progress

BATCH = 32  # images that are listed ahead of the decoders, as in a batch of predict
MAX_THUMBNAIL_BYTES = 64_000  # before the thumbnails are fitted into the page

Thumbnail = bytes | InputError  # the encoded image, or why it cannot be shown


class ThumbnailReader(Fetcher):
    """Reads an input and returns the bytes of its thumbnail.

    Args:
        side: maximum width and height in pixels.
        offline: do not download URLs.
    """

    shape = (-1,)

    def __init__(self, side: int, *, offline: bool) -> None:
        super().__init__(offline=offline)
        self._side = side

    def __call__(self, item: Input) -> NDArray[np.uint8]:
        with reading():
            image = read_image(self.fetch(item), partial(decode, shrink_to=(self._side, self._side)))
            return np.frombuffer(thumbnail(image, self._side, MAX_THUMBNAIL_BYTES), np.uint8)


def make_thumbnails(
    paths: Sequence[str], inputs: Iterable[Input], reader: ThumbnailReader, options: DecodeOptions, bar: Progress
) -> list[Thumbnail]:
    """Return the thumbnail of each path.

    Args:
        paths: the paths of records. One that occurs several times may name several members of an archive.
        inputs: the inputs with these paths, in any order.
        bar: counts the images.
    """
    made: dict[str, list[Thumbnail]] = {}
    with Decoder(reader, options) as decoder, closing(_outcomes(decoder.prefetch(inputs, BATCH))) as outcomes:
        for path, outcome in outcomes:
            made.setdefault(path, []).append(outcome)
            bar.advance()
    seen: Counter[str] = Counter()
    thumbnails = []
    for path in paths:
        thumbnails.append(made[path][min(seen[path], len(made[path]) - 1)])
        seen[path] += 1
    return thumbnails


def _outcomes(prefetcher: Prefetcher) -> Generator[tuple[str, Thumbnail], None, None]:
    try:
        for path, outcome in prefetcher.outcomes():
            yield path, outcome if isinstance(outcome, InputError) else outcome.pixels.tobytes()
    finally:
        prefetcher.stop()


def fitted(thumbnails: Sequence[Thumbnail], max_bytes: int) -> list[Thumbnail]:
    """Return thumbnails that have at most ``max_bytes`` together; the largest ones are made smaller."""
    limit = _largest_allowed([len(each) for each in thumbnails if isinstance(each, bytes)], max_bytes)
    return [_smaller(each, limit) if isinstance(each, bytes) and len(each) > limit else each for each in thumbnails]


def _largest_allowed(sizes: Sequence[int], total: int) -> int:
    """Return the limit L for which the sum of min(size, L) over all sizes is at most ``total``."""
    left = total
    for position, size in enumerate(ordered := sorted(sizes)):
        share = left // (len(ordered) - position)
        if size > share:
            return share
        left -= size
    return total


def _smaller(encoded: bytes, max_bytes: int) -> bytes:
    image = decode(encoded)
    return thumbnail(image, max(image.size), max_bytes)


def as_base64(each: Thumbnail) -> str:
    """Return a thumbnail as one line of text, which is empty if there is none."""
    return base64.b64encode(each).decode("ascii") if isinstance(each, bytes) else ""
