"""Group vectors that are similar to each other: complete linkage, without a matrix of all pairs.

Any two vectors of a group are at least as similar as the threshold, so a chain of similar vectors does not connect
unlike ones. Groups are found in two steps. The first finds the components of the graph whose edges are similar pairs.
The second merges the vectors of each component, the most similar first (complete linkage). A component too large for
the matrix of its pairs is divided vector by vector: each vector joins a group whose vectors are all similar to it.

Equal vectors are one vector here, and the vectors are sorted by their bytes first. The groups therefore do not depend
on the order of the images.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (N, C), divided by their norms
Members = list[int]

TILE_ROWS, TILE_COLUMNS = 1024, 8192
MAX_MATRIX = 2048  # the largest component whose matrix of pairs is held
DIVIDE_ROWS = 256
MAX_CANDIDATES = 16  # groups that a vector of a larger component is compared with


class Forest:
    """The components of a graph (union-find). A component is named after its lowest node."""

    def __init__(self, nodes: int) -> None:
        self._parents = np.arange(nodes)

    def roots(self, nodes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the components of nodes."""
        roots = self._parents[nodes]
        while not np.array_equal(above := self._parents[roots], roots):
            roots = above
        self._parents[nodes] = roots
        return roots

    def join(self, nodes: NDArray[np.intp]) -> None:
        """Connect nodes with each other."""
        roots = self.roots(nodes)
        self._parents[roots] = roots.min()

    def components(self) -> list[NDArray[np.intp]]:
        """Return the nodes of each component that has several."""
        roots = self.roots(np.arange(len(self._parents)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        return [part for part in np.split(order, starts[1:]) if len(part) > 1]


def distinct(vectors: Vectors) -> tuple[Vectors, list[Members]]:
    """Return the distinct vectors, sorted by their bytes, and the numbers of the vectors that are equal to each."""
    if not len(vectors):
        return vectors, []
    keys = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * vectors.itemsize))).ravel()
    order = np.argsort(keys, kind="stable")
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = keys[order][1:] != keys[order][:-1]
    starts = np.flatnonzero(is_first)
    return vectors[order[starts]], [part.tolist() for part in np.split(order, starts[1:])]


def similar_components(vectors: Vectors, threshold: float) -> list[NDArray[np.intp]]:
    """Return the components of the graph whose edges are the pairs that are at least as similar as the threshold."""
    forest = Forest(len(vectors))
    for rows, columns in tiles(len(vectors)):
        row_roots, column_roots = forest.roots(rows), forest.roots(columns)
        if (row_roots == row_roots[0]).all() and (column_roots == row_roots[0]).all():
            continue  # they are connected already
        hits = vectors[rows] @ vectors[columns].T >= threshold
        if not hits.any():
            continue
        hits &= row_roots[:, None] != column_roots
        for number in np.flatnonzero(hits.any(axis=1)):
            forest.join(np.append(columns[hits[number]], rows[number]))
    return forest.components()


def tiles(count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the rows and columns of tiles that cover each pair of different numbers below ``count``."""
    numbers = np.arange(count)
    for top in range(0, count, TILE_ROWS):
        for left in range(top - top % TILE_COLUMNS, count, TILE_COLUMNS):
            yield numbers[top : top + TILE_ROWS], numbers[left : left + TILE_COLUMNS]


def split_components(
    vectors: Vectors, components: Iterable[NDArray[np.intp]], threshold: float
) -> Iterator[tuple[Members, float]]:
    """Yield the groups of several vectors in each component, with the lowest similarity in the group."""
    for component in components:
        if len(component) <= MAX_MATRIX:
            part = vectors[component]
            for members, lowest in complete_linkage(part @ part.T, threshold):
                yield component[members].tolist(), lowest
        else:
            yield from _divide(vectors, component, threshold)


def complete_linkage(similarities: NDArray[np.float32], threshold: float) -> Iterator[tuple[Members, float]]:
    """Yield the groups of several items, with the lowest similarity of two items in the group.

    Args:
        similarities: (N, N), symmetric.
        threshold: the lowest similarity in a group.
    """
    matrix = similarities.copy()
    np.fill_diagonal(matrix, -np.inf)
    groups: dict[int, tuple[Members, float]] = {number: ([number], 1.0) for number in range(len(matrix))}
    nearest = matrix.argmax(axis=1)
    best = matrix[np.arange(len(matrix)), nearest]
    while len(groups) > 1:
        one = int(best.argmax())
        other, lowest = int(nearest[one]), float(best[one])
        if lowest < threshold:
            break
        groups[one] = ([*groups[one][0], *groups.pop(other)[0]], lowest)
        matrix[one] = matrix[:, one] = np.minimum(matrix[one], matrix[other])
        matrix[other] = matrix[:, other] = -np.inf
        changed = np.flatnonzero((nearest == one) | (nearest == other))
        changed = np.union1d(changed, [one, other])
        nearest[changed] = matrix[changed].argmax(axis=1)
        best[changed] = matrix[changed, nearest[changed]]
    return ((members, lowest) for members, lowest in groups.values() if len(members) > 1)


class _Group:
    """A group that grows.

    Attributes:
        lowest: the lowest similarity of two members.
    """

    def __init__(self, first: int) -> None:
        self._members = np.full(4, first)
        self._size, self.lowest = 1, 1.0

    @property
    def members(self) -> NDArray[np.intp]:
        return self._members[: self._size]

    def add(self, number: int, lowest: float) -> None:
        if self._size == len(self._members):
            self._members = np.concatenate([self._members, self._members])
        self._members[self._size] = number
        self._size += 1
        self.lowest = min(self.lowest, lowest)


def _divide(vectors: Vectors, component: NDArray[np.intp], threshold: float) -> Iterator[tuple[Members, float]]:
    """Yield the groups of a large component, with the lowest similarity in each. One tile of pairs is held at a time.

    A vector is compared with the groups whose first member is most similar to it.
    """
    groups: list[_Group] = []
    firsts = np.zeros(len(component), np.intp)
    for top in range(0, len(component), DIVIDE_ROWS):
        rows = component[top : top + DIVIDE_ROWS]
        tile = vectors[rows] @ vectors[component[: top + len(rows)]].T
        for number, row in enumerate(tile, start=top):
            to_first = row[firsts[: len(groups)]]
            similar = np.flatnonzero(to_first >= threshold)
            nearest = similar[np.argsort(-to_first[similar], kind="stable")][:MAX_CANDIDATES]
            for group in nearest.tolist():
                lowest = float(row[groups[group].members].min())
                if lowest >= threshold:
                    groups[group].add(number, lowest)
                    break
            else:
                firsts[len(groups)] = number
                groups.append(_Group(number))
    yield from ((component[group.members].tolist(), group.lowest) for group in groups if len(group.members) > 1)
