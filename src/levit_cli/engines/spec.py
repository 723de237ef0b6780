"""The settings of an engine, the usable number of threads, and padding to a fixed batch size."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.choices import Device, EngineName, Precision
from levit_cli.errors import RefusedError


@dataclass(frozen=True)
class EngineSpec:
    """The requested settings of an engine. In ``Engine.spec`` they are resolved, so that none is ``auto``.

    Args:
        threads: CPU threads of the network, summed over all streams; 0 for all that this process may use.
        streams: number of batches that the engine computes at the same time, each called from its own thread.
        batch_size: fixed number of images per batch, to which smaller batches are padded; 0 for batches of any size.
    """

    device: Device = "auto"
    engine: EngineName = "auto"
    precision: Precision = "auto"
    threads: int = 0
    streams: int = 1
    batch_size: int = 0

    def with_batching(self, batch_size: int, *, single: bool) -> "EngineSpec":
        """Return the spec with its threads divided among the batches that run at the same time.

        A single image gets all threads. Otherwise each thread computes a batch of its own, which gives the highest
        throughput.
        """
        threads = usable_threads(self.threads)
        batch_size, streams = (1, 1) if single else (batch_size, threads)
        return replace(self, threads=threads, streams=streams, batch_size=batch_size)


class Cache(Protocol):
    """Storage for compiled data between runs."""

    def load(self, key: str) -> memoryview | None: ...
    def store(self, key: str, content: bytes) -> None: ...


def usable_threads(requested: int = 0) -> int:
    """Return the smallest of CPU affinity, cgroup quota and the requested number of threads; 0 requests no limit."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _quota(), requested]
    return max(1, min(limit for limit in limits if limit))


def _quota() -> int:
    """Return the CPU quota of the control group (cgroups v2, then v1) in cores, rounded up; 0 if there is no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join(Path("/sys/fs/cgroup", file).read_text() for file in files).split()
            return -(-int(quota) // int(period)) if quota not in ("max", "-1") else 0
        except (OSError, ValueError):
            continue
    return 0


def require_precision(spec: EngineSpec, supported: tuple[Precision, ...], preferred: Precision) -> EngineSpec:
    """Return the spec with its precision resolved: ``preferred`` if it is ``auto``.

    Raises:
        RefusedError: the requested precision is not supported.
    """
    if spec.precision == "auto":
        return replace(spec, precision=preferred)
    if spec.precision not in supported:
        raise RefusedError(
            f"The {spec.engine} engine does not support {spec.precision} on this {spec.device} device",
            hint=f"supported here: {', '.join(supported)}",
        )
    return spec


def pad_batch(pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """Pad a batch with black images to ``batch_size``, so that the last batch of a run needs no graph of its own."""
    if len(pixels) >= batch_size:
        return np.ascontiguousarray(pixels)
    padded = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
    padded[: len(pixels)] = pixels
    return padded
