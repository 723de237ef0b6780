"""Which learned attention bias belongs to which pair of tokens: |dy| and |dx| alone decide (paper, section 4.2)."""

import numpy as np
from numpy.typing import NDArray

from levit_cli.model.config import Grid


def bias_index(key_grid: Grid, stride: int = 1) -> NDArray[np.int64]:
    """Columns of the (heads, key tokens) bias table for each pair of a query and a key.

    Args:
        key_grid: (rows, columns) of the key tokens.
        stride: 2 in a shrink block, where the queries are every second row and column of the keys' grid.

    Returns:
        (query tokens, key tokens), values ``|dy| * columns + |dx|``. Equals what Meta's and transformers' code number
        by first appearance on a square grid, and timm's formula on any.
    """
    rows, columns = key_grid
    dy = _distances(rows, stride)[:, None, :, None]  # (query rows, 1, key rows, 1)
    dx = _distances(columns, stride)[None, :, None, :]  # (1, query columns, 1, key columns)
    return (dy * columns + dx).reshape(dy.size // rows * (dx.size // columns), rows * columns)


def _distances(length: int, stride: int) -> NDArray[np.int64]:
    """(ceil(length / stride), length): how far each key lies from each query along one axis."""
    keys = np.arange(length, dtype=np.int64)
    distances: NDArray[np.int64] = np.abs(keys[::stride, None] - keys[None, :])
    return distances
