"""Batches on an NVIDIA GPU: the network captured once as a CUDA graph and replayed, without a launch for each layer.

Each stream has buffers of its own: the batch is copied from page-locked memory without waiting, so that one stream
copies while another computes, and the thread that waits for an answer leaves the interpreter to those that decode.
Not measured yet: no GPU was at hand.
"""

from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WARM_UP_CALLS = 3  # libraries choose their kernels and take their memory then, which a capture does not allow


class CudaGraphs:
    """Callable from as many threads at once as there are streams.

    Args:
        module: (B, H, W, 3) bytes -> (B, classes) logits, on the GPU.
        shape: of every batch; the graph is made for it.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], shape: tuple[int, ...], streams: int) -> None:
        self._idle: SimpleQueue[_Stream] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(_Stream(module, shape))

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        stream = self._idle.get()
        try:
            return stream(pixels)
        finally:
            self._idle.put(stream)


class _Stream:
    """One batch under way: its page-locked memory, its memory on the GPU, and the graph between."""

    @torch.inference_mode()
    def __init__(self, module: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
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
            self._logits = module(self._pixels).float()
        self._answer = torch.empty(self._logits.shape, pin_memory=True)

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._host.numpy()[:] = pixels
        with torch.cuda.stream(self._stream):
            self._pixels.copy_(self._host, non_blocking=True)
            self._graph.replay()
            self._answer.copy_(self._logits, non_blocking=True)
        self._stream.synchronize()
        logits: NDArray[np.float32] = self._answer.numpy().copy()
        return logits
