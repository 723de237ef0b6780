"""What this process may use of the CPU, and the CPU's name."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CPU_CONTROLLER = "cpu"
CPUINFO = Path("/proc/cpuinfo")
# Linux's names of the x86 instructions that multiply and add four int8 values at once: VNNI of AVX-512 and AVX2, AMX.
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
V1_FILES = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


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


def has_int8_instructions(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether this is an x86 CPU with instructions for int8. Unknown on systems other than Linux: False.

    Without them, int8 is not faster than fp32, and sums of two products can overflow 16 bits.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.partition(":")[0].strip() == "flags"), "")
    return not INT8_FLAGS.isdisjoint(flags.split())


def usable_threads(requested: int = 0) -> int:
    """Return the minimum of CPU affinity, cgroup quota and the requested number of threads; 0 requests all threads."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, cgroup_quota(), requested]
    return max(1, min(limit for limit in limits if limit))


def cgroup_quota(root: Path = Path("/")) -> int:
    """Return the smallest CPU quota of this process's control groups in cores, rounded up; 0 if there is no limit.

    A quota also limits the groups below, so those of all ancestors count, in cgroups v1 and v2. systemd and containers
    set them at different levels.

    Args:
        root: the folder that contains ``proc`` and ``sys``.
    """
    return min(filter(None, map(_quota_of, _groups(root))), default=0)


def _quota_of(group: Path) -> int:
    """Return the quota in the files of one control group; 0 if there is none."""
    for names in (("cpu.max",), V1_FILES):
        with suppress(OSError, ValueError, ZeroDivisionError):  # ValueError: "max"
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            return max(-(-quota // period), 0)  # v1 writes -1 for no limit
    return 0


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups: the group at its root, and where it is mounted."""

    is_v1: bool
    group: PurePosixPath
    point: Path


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of their ancestors, as far as they are mounted."""
    yield from (root / "sys/fs/cgroup", root / "sys/fs/cgroup/cpu")  # the usual mount points, if /proc is hidden
    paths = dict(_memberships(root))
    mounts = [mount for mount in _mounts(root) if mount.is_v1 in paths]
    within = [mount for mount in mounts if paths[mount.is_v1].is_relative_to(mount.group)]
    for mount in within:
        yield from _levels(mount.point, paths[mount.is_v1].relative_to(mount.group))
    for mount in mounts:
        if mount.is_v1 not in {other.is_v1 for other in within}:
            yield from _levels(mount.point, paths[mount.is_v1].relative_to("/"))


def _levels(point: Path, path: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of a group and those of its ancestors down to the mount point.

    The path may begin with groups that this namespace does not see; it counts from the first visible one.
    """
    parts = () if ".." in path.parts else path.parts  # ".." leads out of this namespace
    start = next((number for number, part in enumerate(parts) if (point / part).is_dir()), len(parts))
    for end in range(start, len(parts) + 1):
        yield point.joinpath(*parts[start:end])


def _memberships(root: Path) -> Iterator[tuple[bool, PurePosixPath]]:
    """Yield the groups of this process that limit its CPU time: in v1's hierarchy ``cpu``, and in v2's only one."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v1 = CPU_CONTROLLER in controllers.split(",")
        if path and (is_v1 or (number, controllers) == ("0", "")):
            yield is_v1, PurePosixPath(path)


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = f"{rest}  ".split(" ", 2)
        is_v1 = kind == "cgroup" and CPU_CONTROLLER in options.split(",")
        if is_v1 or kind == "cgroup2":
            group, point = (_unescaped(field) for field in fields.split(" ")[3:5])
            yield _Mount(is_v1, PurePosixPath(group), root / point.lstrip("/"))


def _unescaped(field: str) -> str:
    r"""Return a path from mountinfo, in which spaces and backslashes are octal numbers such as ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n").split("\n")
    except OSError:  # not Linux, or hidden
        return []
