"""Connect images that show the same photo: pairs with similar vectors and layouts are compared pixel by pixel.

Each image is compared with the images that are most similar to it, at most ``MAX_COMPARED``, and not with images that
are connected with it already. The work therefore grows with the number of images, even if all of them look alike.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from levit_cli.embed.linkage import Forest, Vectors, tiles
from levit_cli.embed.same_photo import Small, are_same, layouts

SAME_LAYOUT = 0.8  # correlation of the tiny gray images
MAX_COMPARED = 20
PAIRS_AT_ONCE = 128
MAX_PAIRS = 1 << 21  # that are held at a time

Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]  # first, second, score
Load = Callable[[NDArray[np.intp]], Small]


def connected_photos(vectors: Vectors, load: Load, threshold: float) -> list[NDArray[np.intp]]:
    """Return the components of the graph whose edges are the pairs of images that show the same photo.

    Args:
        vectors: (N, C), divided by their norms.
        load: returns the small images with these numbers.
        threshold: the lowest cosine similarity of a pair.
    """
    forest = Forest(len(vectors))
    compared: Counter[int] = Counter()
    chosen: list[tuple[int, int]] = []
    for first, second in _best_first(vectors, load, threshold):
        if max(compared[first], compared[second]) >= MAX_COMPARED:
            continue
        compared.update((first, second))
        chosen.append((first, second))
        if len(chosen) == PAIRS_AT_ONCE:
            _connect(forest, chosen, load)
            chosen = []
    _connect(forest, chosen, load)
    return forest.components()


def _connect(forest: Forest, pairs: list[tuple[int, int]], load: Load) -> None:
    if not pairs:
        return
    first, second = np.array(pairs, np.intp).T
    is_open = forest.roots(first) != forest.roots(second)
    first, second = first[is_open], second[is_open]
    if not len(first):
        return
    for number in np.flatnonzero(are_same(load(first), load(second))):
        forest.join(np.array([first[number], second[number]]))


def _best_first(vectors: Vectors, load: Load, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs with similar vectors and layouts, the most similar first."""
    flat = _all_layouts(len(vectors), load)
    found: list[Pairs] = []
    held = 0
    for rows, columns in tiles(len(vectors)):
        pairs = _pairs_of_tile(vectors, flat, rows, columns, threshold)
        if len(pairs[0]):
            found.append(pairs)
            held += len(pairs[0])
        if held > MAX_PAIRS:
            found = [_best_of_each(found)]
            held = len(found[0][0])
    if found:
        first, second, scores = _best_of_each(found)
        order = np.lexsort((second, first, -scores))
        yield from zip(first[order].tolist(), second[order].tolist(), strict=True)


def _all_layouts(count: int, load: Load) -> NDArray[np.float32]:
    numbers = np.arange(count)
    parts = [layouts(load(numbers[start : start + 1024])) for start in range(0, count, 1024)]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _pairs_of_tile(
    vectors: Vectors, flat: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp], threshold: float
) -> Pairs:
    similarities = vectors[rows] @ vectors[columns].T
    hits = (similarities >= threshold) & (rows[:, None] < columns)
    if not hits.any():
        return rows[:0], rows[:0], similarities[0, :0]
    scores = flat[rows] @ flat[columns].T
    hits &= scores >= SAME_LAYOUT
    first, second = np.nonzero(hits)
    return rows[first], columns[second], scores[first, second] + similarities[first, second]


def _best_of_each(found: list[Pairs]) -> Pairs:
    """Return the pairs that are among the best ``MAX_COMPARED`` of their first image."""
    first, second, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((second, -scores, first))
    first, second, scores = first[order], second[order], scores[order]
    starts = np.flatnonzero(np.diff(first, prepend=-1))
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(starts, append=len(first)))
    kept = rank < MAX_COMPARED
    return first[kept], second[kept], scores[kept]
