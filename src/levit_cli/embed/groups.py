"""Groups of duplicates as values: images with equal pixels, and images that show the same photo."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from levit_cli.embed.linkage import Members

DIGITS = 6


class Facts(NamedTuple):
    """What is known of a decoded image.

    Args:
        digest: of its size and its pixels, after it was turned upright.
        num_bytes: the size of the file.
        thumbnail: a small JPEG in Base64, if there is to be a page.
    """

    digest: bytes
    width: int
    height: int
    num_bytes: int
    thumbnail: str = ""


@dataclass(frozen=True)
class Group:
    """Images that are duplicates of each other.

    Args:
        kind: ``exact`` for equal pixels, ``near`` for images that show the same photo.
        similarity: the lowest cosine similarity of two images in the group; 1 for exact.
        paths: the best image first: the one with most pixels, then most bytes.
    """

    kind: Literal["exact", "near"]
    similarity: float
    paths: tuple[str, ...]


def groups_of(members: Members, paths: Sequence[str], facts: Mapping[int, Facts], lowest: float) -> Iterator[Group]:
    """Yield the groups of images that complete linkage has found to belong together.

    Images with equal pixels are an exact group. A near group holds only the best image of each exact group.

    Args:
        members: the numbers of the images.
        facts: of the images that could be decoded again; those of others are unknown.
        lowest: the lowest similarity of two images.
    """
    by_pixels: defaultdict[object, Members] = defaultdict(list)
    for number in members:
        by_pixels[facts[number].digest if number in facts else number].append(number)

    def best_first(numbers: Members) -> Members:
        return sorted(numbers, key=lambda number: (*_badness(facts.get(number)), paths[number]))

    equal = [best_first(numbers) for numbers in by_pixels.values()]
    for numbers in equal:
        if len(numbers) > 1:
            yield Group("exact", 1.0, tuple(paths[number] for number in numbers))
    if len(equal) > 1:
        different = best_first([numbers[0] for numbers in equal])
        yield Group("near", round(min(1.0, lowest), DIGITS), tuple(paths[number] for number in different))


def _badness(facts: Facts | None) -> tuple[int, int]:
    return (0, 0) if facts is None else (-facts.width * facts.height, -facts.num_bytes)


def sorted_groups(groups: Iterator[Group]) -> list[Group]:
    """Return groups in an order that does not depend on the order of the images."""
    return sorted(groups, key=lambda group: (group.paths, group.kind))
