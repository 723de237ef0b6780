"""Run batches on an NVIDIA GPU as a captured CUDA graph, which needs one launch instead of one per kernel.

Each stream has its own buffers. Batches are copied asynchronously from page-locked memory, so one stream copies while
another computes. A thread that waits for its result releases the GIL, so that other threads can decode images. The
speed-up has not been measured yet.
"""

from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WARM_UP_CALLS = 3  # the first calls select kernels and allocate memory, which is not allowed during a capture


class CudaGraphs:
    """A network as CUDA graphs, one per stream. At most ``streams`` calls run at the same time.

    Args:
        module: (B, H, W, 3) uint8 -> a tuple of outputs (B, any), on the GPU.
        shape: shape (B, H, W, 3) of every batch, for which the graph is captured.
        streams: number of CUDA streams.
    """

    def __init__(self, module: Callable[[Tensor], tuple[Tensor, ...]], shape: tuple[int, ...], streams: int) -> None:
        self._idle: SimpleQueue[_Stream] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(_Stream(module, shape))

    def __call__(self, pixels: NDArray[np.uint8], output: int) -> NDArray[np.float32]:
        """Return the output with this index."""
        stream = self._idle.get()
        try:
            return stream(pixels, output)
        finally:
            self._idle.put(stream)


class _Stream:
    """One CUDA stream with its page-locked buffers, its GPU buffers and its graph."""

    @torch.inference_mode()
    def __init__(self, module: Callable[[Tensor], tuple[Tensor, ...]], shape: tuple[int, ...]) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._pixels = torch.zeros(shape, dtype=torch.uint8, device="cuda")
            for _ in range(WARM_UP_CALLS):
                module(self._pixels)
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._outputs = [output.float() for output in module(self._pixels)]
        self._results = [torch.empty(output.shape, pin_memory=True) for output in self._outputs]

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], output: int) -> NDArray[np.float32]:
        self._host.numpy()[:] = pixels
        with torch.cuda.stream(self._stream):
            self._pixels.copy_(self._host, non_blocking=True)
            self._graph.replay()
            self._results[output].copy_(self._outputs[output], non_blocking=True)
        self._stream.synchronize()
        result: NDArray[np.float32] = self._results[output].numpy().copy()
        return result
