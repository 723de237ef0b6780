"""Groups: pairs within a group are similar, chains do not connect unlike vectors, and the order does not matter."""

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.embed import linkage
from levit_cli.embed.duplicates import similar_groups
from levit_cli.embed.linkage import complete_linkage
from levit_cli.predict.pipeline import normalized


def at_angles(*degrees: float) -> NDArray[np.float32]:
    radians = np.radians(np.array(degrees))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def groups_of(vectors: NDArray[np.float32], threshold: float) -> set[frozenset[int]]:
    return {frozenset(members) for members, _ in similar_groups(vectors, None, threshold)}


def clusters(count: int, spread: float, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors around a third as many centers."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((count // 3, 16))
    return normalized(centers[rng.integers(len(centers), size=count)] + spread * rng.standard_normal((count, 16)))


@pytest.mark.guarantee("groups-do-not-chain")
def test_a_chain_of_similar_vectors_is_no_group() -> None:
    vectors = at_angles(*range(0, 90, 6))
    threshold = float(np.cos(np.radians(13)))  # neighbours and their neighbours are similar
    found = groups_of(vectors, threshold)
    assert max(map(len, found)) <= 3
    for members in found:
        part = vectors[[*members]]
        assert (part @ part.T).min() >= threshold


def test_the_most_similar_vectors_are_grouped_first() -> None:
    assert groups_of(at_angles(0, 10, 15), float(np.cos(np.radians(12)))) == {frozenset({1, 2})}


def test_complete_linkage_equals_that_of_scipy() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    distance = pytest.importorskip("scipy.spatial.distance")
    vectors = clusters(90, 0.4)
    matrix = vectors @ vectors.T
    tree = hierarchy.linkage(distance.squareform(1 - matrix, checks=False), "complete")
    labels = hierarchy.fcluster(tree, 1 - 0.9, "distance")
    expected = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}
    found = [*complete_linkage(matrix, 0.9)]
    assert {frozenset(members) for members, _ in found} == {group for group in expected if len(group) > 1}
    assert len(found) > 10
    for members, lowest in found:
        assert lowest == pytest.approx(float(matrix[np.ix_(members, members)].min()), abs=1e-6)


@pytest.mark.guarantee("groups-do-not-chain")
@pytest.mark.parametrize("limits", [(1024, 2048), (8, 2048), (8, 4)], ids=["one tile", "many tiles", "large component"])
def test_each_pair_of_a_group_is_similar_and_the_order_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int]
) -> None:
    monkeypatch.setattr(linkage, "TILE_ROWS", limits[0])
    monkeypatch.setattr(linkage, "TILE_COLUMNS", 2 * limits[0])
    monkeypatch.setattr(linkage, "DIVIDE_ROWS", limits[0])
    monkeypatch.setattr(linkage, "MAX_MATRIX", limits[1])
    vectors = np.concatenate([clusters(120, 0.3), clusters(120, 0.3)[:15]])  # 15 are repeated
    found = [*similar_groups(vectors, None, 0.9)]
    assert len(found) > 20
    numbers = [number for members, _ in found for number in members]
    assert len(numbers) == len({*numbers})
    for members, lowest in found:
        similarities = vectors[members] @ vectors[members].T
        assert similarities.min() >= 0.9 - 1e-6
        assert lowest == pytest.approx(float(similarities.min()), abs=1e-6)
    order = np.random.default_rng(1).permutation(len(vectors))
    shuffled = groups_of(vectors[order], 0.9)
    assert {frozenset(order[[*group]].tolist()) for group in shuffled} == {frozenset(members) for members, _ in found}


def test_equal_vectors_are_one_group_also_zero_vectors_and_none_are_none() -> None:
    vectors = np.concatenate([at_angles(0, 0, 90), np.zeros((2, 2), np.float32)])
    assert groups_of(vectors, 0.9) == {frozenset({0, 1}), frozenset({3, 4})}
    assert groups_of(np.zeros((0, 3), np.float32), 0.9) == set()


def test_many_similar_vectors_need_no_matrix_of_all_pairs() -> None:
    vectors = normalized(np.ones((3000, 8)) + 0.01 * np.random.default_rng(0).standard_normal((3000, 8)))
    ((members, lowest),) = similar_groups(vectors, None, 0.97)
    assert len(members) == 3000
    assert 0.97 <= lowest < 1
