"""Find the most similar vectors of an index: exact search by matrix products, one block of the index at a time."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levit_cli.embed.index import Index, unit_blocks

MAX_PRODUCTS = 1 << 22  # similarities that are held at a time
DIGITS = 6  # more would depend on the order in which a matrix product adds numbers


class Neighbour(NamedTuple):
    """An image of an index and its cosine similarity to a query."""

    path: str
    similarity: float


class _Best:
    """The best images of one query so far, the most similar first; equally similar ones in the order of the index."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.neighbours: list[Neighbour] = []

    def add(self, paths: list[str], similarities: NDArray[np.float64]) -> None:
        """Add the next images of the index."""
        count = min(self._count, len(similarities))
        lowest = np.partition(similarities, -count)[-count]
        if len(self.neighbours) == self._count:
            lowest = max(lowest, self.neighbours[-1].similarity)
        better = np.flatnonzero(similarities >= lowest)
        order = better[np.argsort(-similarities[better], kind="stable")][:count]
        found = [Neighbour(paths[number], float(similarities[number])) for number in order]
        merged = sorted([*self.neighbours, *found], key=lambda neighbour: -neighbour.similarity)
        self.neighbours = merged[: self._count]


def search(index: Index, queries: NDArray[np.float32], count: int) -> list[list[Neighbour]]:
    """Return the ``count`` most similar images of an index for each query.

    Args:
        queries: (Q, C) vectors, divided by their norms. A zero vector has the similarity 0 to each image.

    Raises:
        RefusedError: the index is damaged.
    """
    best = [_Best(count) for _ in queries]
    step = max(1, MAX_PRODUCTS // max(1, len(queries)))
    for paths, vectors in unit_blocks(index):
        for start in range(0, len(vectors), step):
            products = _similarities(vectors[start : start + step], queries)
            for number, result in enumerate(best):
                result.add(paths[start : start + step], products[:, number])
    return [result.neighbours for result in best]


def _similarities(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the similarities (B, Q), rounded."""
    products: NDArray[np.float64] = (vectors @ queries.T).astype(np.float64)
    return products.round(DIGITS)
