"""Compute small batches with smaller graphs, so that the work grows with the number of images.

A graph has a fixed batch size, and a smaller batch is padded to it. A list that arrives slowly would pay for a full
batch with each image. Graphs for smaller sizes, which are powers of two, are therefore compiled as soon as the time
that was spent on padding exceeds the time that compiling takes; both together are at most twice the unavoidable time.

Which graph computes an image depends on the time at which it arrives, but its result must not: ``--resume`` guarantees
the same bytes. So a smaller graph is used only if it computes the same bits as the full one from a batch of noise. The
order in which a kernel adds numbers depends on the shape of the batch and not on the pixels. If it differs, the sums of
a network's thousands of products differ in some bits, and a smaller graph of that size is never used.
"""

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]
Graph = Callable[[Pixels], Rows]  # (B, H, W, 3) -> (B, any); pads the batch to its size


class SmallBatches:
    """A graph for full batches, with graphs for smaller ones as they are needed.

    Args:
        full: the graph for ``batch_size`` images.
        compile_for: compiles the graph for another size.
        compile_s: the seconds that compiling a graph takes.
        image_size: (height, width) of the pixels.
    """

    def __init__(
        self,
        full: Graph,
        compile_for: Callable[[int], Graph],
        *,
        batch_size: int,
        compile_s: float,
        image_size: tuple[int, int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._full, self._compile_for, self._clock = full, compile_for, clock
        self._batch_size, self._compile_s, self._image_size = batch_size, compile_s, image_size
        self._graphs: dict[int, Graph] = {}
        self._wasted_s: Counter[int] = Counter()  # on padding, by the size that would have been enough
        self._lock = Lock()

    def __call__(self, pixels: Pixels) -> Rows:
        size = min(size_for(len(pixels)), self._batch_size)
        graph = self._graphs.get(size)
        if graph is not None or size == self._batch_size:
            return (graph or self._full)(pixels)
        start = self._clock()
        rows = self._full(pixels)
        self._account(size, (self._clock() - start) * (1 - size / self._batch_size))
        return rows

    def _account(self, size: int, wasted_s: float) -> None:
        if not self._lock.acquire(blocking=False):  # another stream is compiling
            return
        try:
            self._wasted_s[size] += wasted_s  # type: ignore[assignment]
            if self._wasted_s[size] > self._compile_s and size not in self._graphs:
                graph = self._compile_for(size)
                self._graphs[size] = graph if self._computes_the_same(graph, size) else self._full
        finally:
            self._lock.release()

    def _computes_the_same(self, graph: Graph, size: int) -> bool:
        pixels = noise((self._batch_size, *self._image_size, 3))
        parts = [graph(pixels[start : start + size]) for start in range(0, self._batch_size, size)]
        return np.concatenate(parts).tobytes() == self._full(pixels).tobytes()


def size_for(images: int) -> int:
    """Return the smallest power of two that is at least the number of images."""
    return 1 << max(images - 1, 0).bit_length()


def noise(shape: tuple[int, ...]) -> Pixels:
    """Return pixels without any pattern, the same each time. Importing ``numpy.random`` would take 10 ms."""
    numbers = np.arange(np.prod(shape), dtype=np.uint32)
    numbers ^= numbers >> 15
    for factor in (0x2C1B3C6D, 0x297A2D39):
        numbers *= np.uint32(factor)
        numbers ^= numbers >> 13
    return (numbers >> 16).astype(np.uint8).reshape(shape)
