"""The bias index depends on |dy| and |dx| and equals that of every published implementation."""

from itertools import product

import numpy as np
import pytest

from levit_cli.model.attention_bias import bias_index
from levit_cli.model.config import Grid

GRIDS = [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (14, 14), (1, 5), (5, 1), (3, 8), (7, 4)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_pair_uses_the_column_of_its_distance(grid: Grid, stride: int) -> None:
    rows, columns = grid
    queries = list(product(range(0, rows, stride), range(0, columns, stride)))
    keys = list(product(range(rows), range(columns)))
    expected = [[abs(y - qy) * columns + abs(x - qx) for y, x in keys] for qy, qx in queries]
    index = bias_index(grid, stride)
    assert index.dtype == np.int64
    assert index.tolist() == expected


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 14])
def test_the_index_equals_numbering_by_first_appearance_on_a_square_grid(side: int) -> None:
    points = list(product(range(side), repeat=2))
    numbers: dict[Grid, int] = {}
    for one, other in product(points, points):  # the order of Meta's constructor
        numbers.setdefault((abs(one[0] - other[0]), abs(one[1] - other[1])), len(numbers))
    expected = [[numbers[abs(one[0] - other[0]), abs(one[1] - other[1])] for other in points] for one in points]
    assert bias_index((side, side)).tolist() == expected


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_column_of_the_table_is_used(grid: Grid) -> None:
    assert set(np.unique(bias_index(grid))) == set(range(grid[0] * grid[1]))
