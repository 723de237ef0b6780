"""Index the table of learned attention biases: a pair of tokens uses the entry of its |dy| and |dx| (section 4.2)."""

import numpy as np
from numpy.typing import NDArray

from levit_cli.model.config import Grid


def bias_index(key_grid: Grid, stride: int = 1) -> NDArray[np.int64]:
    """Return the column of the (heads, key tokens) bias table for each pair of a query and a key.

    Args:
        key_grid: (rows, columns) of the key tokens.
        stride: 2 in a shrink block, where the queries are every second row and column of the key grid.

    Returns:
        (query tokens, key tokens), with values ``|dy| * columns + |dx|``. On a square grid this equals the numbering
        by first appearance in the code of Meta and transformers. On any grid it equals timm's formula.
    """
    rows, columns = key_grid
    dy = _distances(rows, stride)[:, None, :, None]  # (query rows, 1, key rows, 1)
    dx = _distances(columns, stride)[None, :, None, :]  # (1, query columns, 1, key columns)
    return (dy * columns + dx).reshape(dy.size // rows * (dx.size // columns), rows * columns)


def _distances(length: int, stride: int) -> NDArray[np.int64]:
    """Return the distance of each query to each key along one axis, (ceil(length / stride), length)."""
    keys = np.arange(length, dtype=np.int64)
    distances: NDArray[np.int64] = np.abs(keys[::stride, None] - keys[None, :])
    return distances
