"""Measure processes and functions in one run, interleaved with the timing code of ``levit bench``.

Until a child process executes another program, the kernel counts the memory of its parent as the child's. A benchmark
that measures the memory of its children must therefore stay small. This module imports no heavy packages, and it
imports the packages that describe the machine after the children have ended.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

from levit_cli.bench.protocol import Step, interleave, single_steps
from levit_cli.system.text import count_noun

T = TypeVar("T")


class Run(NamedTuple):
    """The measurements and the standard error output of a process that has ended.

    Args:
        cpu_s: user and system time of its threads and of the processes that it waited for.
    """

    wall_s: float
    peak_mb: float
    stderr: str
    cpu_s: float = 0.0


def run_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command, discard its output, and return its wall time and the peak memory that the kernel reports."""
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        stderr.seek(0)
        messages = stderr.read().decode(errors="replace")
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return Run(wall_s, usage.ru_maxrss / 1024, messages, usage.ru_utime + usage.ru_stime)


def cpu_s(process: "subprocess.Popen[bytes]") -> float:
    """Wait for a ``levit predict``, and return the user and system seconds of its processes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1)
    return usage.ru_utime + usage.ru_stime


def random_model(variant: str, folder: str, *, int8: bool = False) -> str:
    """Write a model with random weights, in another process so that this one stays small, and return its folder.

    Args:
        int8: with an int8 graph, as ``levit quantize`` makes it.
    """
    subprocess.run([sys.executable, "-m", "benchmarks.models", variant, folder, *["int8"] * int8], check=True)
    return folder


def collect(functions: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call each function once per round, interleaved, and return its results.

    One more call before the first round fills the caches. Its result is dropped.
    """
    results: dict[str, list[T]] = {name: [] for name in functions}

    def step_of(name: str) -> Step:
        return lambda: results[name].append(functions[name]())

    interleave({name: step_of(name) for name in functions}, single_steps(rounds))
    return {name: values[1:] for name, values in results.items()}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return the lowest, the median and the highest ratio of their seconds to ours, computed for each round."""
    ordered = sorted(other / own for own, other in zip(ours, theirs, strict=True))
    return ordered[0], median(ordered), ordered[-1]


def machine() -> str:
    """Return the name of the CPU and the number of cores that this process may use."""
    from levit_cli.system.cpu import cpu_name, usable_threads

    return f"{cpu_name()}, {count_noun(usable_threads(), 'core')}"


def versions(*names: str) -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in names)
