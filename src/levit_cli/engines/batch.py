"""Batches of one fixed size, for what is compiled for that size only."""

import numpy as np
from numpy.typing import NDArray


def pad_batch(pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """The batch with black images behind it, so that the last one of a run needs no graph of its own."""
    if len(pixels) >= batch_size:
        return np.ascontiguousarray(pixels)
    filled = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
    filled[: len(pixels)] = pixels
    return filled
