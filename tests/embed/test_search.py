"""Exact search equals the search over all vectors at once."""

from pathlib import Path

import numpy as np
import pytest

from levit_cli.embed import npz, search
from levit_cli.embed.index import open_index
from levit_cli.predict.pipeline import normalized


@pytest.mark.guarantee("exact-search")
@pytest.mark.parametrize("count", [1, 3, 60])
@pytest.mark.parametrize("products", [1, 50, 1 << 22])
def test_it_equals_a_stable_sort_of_all_similarities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, products: int
) -> None:
    monkeypatch.setattr(npz, "BLOCK_ROWS", 7)
    monkeypatch.setattr(search, "MAX_PRODUCTS", products)
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (40, 3)).astype(np.float32)  # many are equal, and some are zero
    vectors[5] = 0
    np.savez(tmp_path / "a.npz", vectors=vectors, paths=np.array([*map(str, range(40))]))
    queries = normalized(np.vstack([vectors[:4], np.zeros((1, 3), np.float32)]))
    found = search.search(open_index(tmp_path / "a.npz"), queries, count)
    similarities = (queries.astype(np.float64) @ normalized(vectors).T.astype(np.float64)).round(6)
    for row, neighbours in zip(similarities, found, strict=True):
        order = np.argsort(-row, kind="stable")[:count]
        assert [int(neighbour.path) for neighbour in neighbours] == order.tolist()
        np.testing.assert_allclose([neighbour.similarity for neighbour in neighbours], row[order], atol=2e-6)


def test_an_empty_index_has_no_neighbours(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", vectors=np.zeros((0, 3), np.float32), paths=np.array([], "U1"))
    assert search.search(open_index(tmp_path / "a.npz"), np.ones((2, 3), np.float32), 4) == [[], []]
