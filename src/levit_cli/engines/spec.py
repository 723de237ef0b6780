"""Define the settings of an engine, and pad batches to a fixed size."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import Device, EngineName, Precision
from levit_cli.errors import RefusedError
from levit_cli.system.cpu import usable_threads

# A thread computes larger batches no faster (docs/dev/log.md), and pads the last one with more images.
CPU_BATCH = 16


@dataclass(frozen=True)
class EngineSpec:
    """The requested settings of an engine. In ``Engine.spec`` they are resolved, so that none is ``auto``.

    Args:
        threads: CPU threads of the network, summed over all streams; 0 for all threads that this process may use.
        streams: number of batches that the engine computes at the same time, each called from its own thread.
        batch_size: fixed number of images per batch; smaller batches are padded. 0 allows batches of any size.
    """

    device: Device = "auto"
    engine: EngineName = "auto"
    precision: Precision = "auto"
    threads: int = 0
    streams: int = 1
    batch_size: int = 0

    def with_batching(self, batch_size: int, *, single: bool) -> "EngineSpec":
        """Return the spec with its threads divided among the batches that run at the same time.

        A single image gets all threads. Otherwise each thread computes its own batch, for the highest throughput. The
        OpenVINO engine computes at most ``CPU_BATCH`` images at once, whatever the batch size.
        """
        threads = usable_threads(self.threads)
        if self.engine == "openvino" or (self.engine == "auto" and self.device in ("auto", "cpu")):
            batch_size = min(batch_size, CPU_BATCH)
        batch_size, streams = (1, 1) if single else (batch_size, threads)
        return replace(self, threads=threads, streams=streams, batch_size=batch_size)


class Cache(Protocol):
    """Storage for compiled data between runs."""

    def load(self, key: str) -> memoryview | None: ...
    def store(self, key: str, content: bytes) -> None: ...


def require_precision(spec: EngineSpec, supported: tuple[Precision, ...], preferred: Precision) -> EngineSpec:
    """Resolve the precision: ``auto`` becomes ``preferred``.

    Raises:
        RefusedError: the requested precision is not supported.
    """
    if spec.precision == "auto":
        return replace(spec, precision=preferred)
    if spec.precision not in supported:
        raise RefusedError(
            f"The {spec.engine} engine does not support {spec.precision} on this {spec.device} device",
            hint=f"use --precision {' or '.join(supported)}",
        )
    return spec


def pad_batch(pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """Pad a batch with black images to ``batch_size``, so that the last, smaller batch can use the same graph."""
    if len(pixels) >= batch_size:
        return np.ascontiguousarray(pixels)
    padded = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
    padded[: len(pixels)] = pixels
    return padded
