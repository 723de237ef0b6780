"""What this process may use of the CPU, and the CPU's name."""

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the model name of the CPU, or its architecture if the name is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def usable_threads(requested: int = 0) -> int:
    """Return the minimum of CPU affinity, cgroup quota and the requested number of threads; 0 requests all threads."""
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
