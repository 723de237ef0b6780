"""Timing for the benchmarks: rivals take turns in one run, medians are compared, and the spread is shown."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple


class Run(NamedTuple):
    """One process from start to end."""

    wall_s: float
    peak_mb: float
    said: str  # on stderr


def run_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command, its output thrown away, and account for it by what the kernel says of the finished process."""
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=words, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        words.seek(0)
        said = words.read().decode(errors="replace")
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(wall_s, usage.ru_maxrss / 1024, said)


def random_model(variant: str, folder: str) -> str:
    """A folder with a model of random weights, made by another process.

    The kernel counts the memory of a parent towards its children until they have become another program, so the parent
    of what is measured stays small and imports nothing.
    """
    subprocess.run([sys.executable, "-m", "benchmarks.models", variant, folder], check=True)
    return folder


def take_turns(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival, measured A B C, A B C, …, after one round that does not count."""
    for measure in rivals.values():
        measure()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, measure in rivals.items():
            seconds[name].append(measure())
    return seconds


def repeated(work: Callable[[], object], at_least_s: float = 0.3) -> Callable[[], float]:
    """A measure of ``work``: seconds a call, over as many calls as fill a while."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, round(at_least_s / (time.perf_counter() - start)))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls

    return measure


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """How many times longer they take: least, median, most over the rounds, each round's pair compared."""
    pairs = sorted(other / own for own, other in zip(ours, theirs, strict=True))
    return pairs[0], median(pairs), pairs[-1]


def machine() -> str:
    """The CPU and how much of it this process may use."""
    name = "unknown CPU"
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def versions(*names: str) -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in names)
