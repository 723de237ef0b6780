"""What is asked of an engine, and what this machine lets it use."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from levit_cli.choices import Device, EngineName, Precision
from levit_cli.errors import RefusedError


@dataclass(frozen=True)
class EngineSpec:
    """What is asked for, or, as ``Engine.spec``, what was chosen: then nothing is ``auto``.

    Args:
        threads: of the network on a CPU, all streams together; 0 for as many as this process may use.
        streams: how many batches may be computed at once, from as many threads of the caller.
        batch_size: images that a batch will have; a smaller one is filled up. 0 for batches of any size.
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
    """Where an engine may keep what took long to make."""

    def load(self, key: str) -> memoryview | None: ...
    def store(self, key: str, content: bytes) -> None: ...


def usable_threads(asked: int = 0) -> int:
    """min(CPU affinity, cgroup quota, what was asked for)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, _quota(), asked]
    return max(1, min(limit for limit in limits if limit))


def _quota() -> int:
    """Whole cores that the control group grants, rounded up; 0 where it does not limit (cgroups v2, then v1)."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join(Path("/sys/fs/cgroup", file).read_text() for file in files).split()
            return -(-int(quota) // int(period)) if quota not in ("max", "-1") else 0
        except (OSError, ValueError):
            continue
    return 0


def require_precision(spec: EngineSpec, supported: tuple[Precision, ...], preferred: Precision) -> EngineSpec:
    """The spec with its precision decided.

    Raises:
        RefusedError: the one asked for is not supported there.
    """
    if spec.precision == "auto":
        return replace(spec, precision=preferred)
    if spec.precision not in supported:
        raise RefusedError(
            f"The {spec.engine} engine on this {spec.device} does not compute in {spec.precision}",
            hint=f"it does in {', '.join(supported)}",
        )
    return spec
