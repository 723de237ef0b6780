"""Compare ``levit predict --ray local`` with a local run, both pinned to the same cores.

python -m benchmarks.ray FOLDER [--variant levit-256] [--count 1000] [--rounds 3]

Each configuration classifies ``count`` photos and three times as many: the folder's photos, repeated. The difference
of the two runs is the time of ``2 * count`` photos without the start-up, and the start-up is what remains of the
shorter run. All processes of a run are pinned: those of Ray and the decoding use the same cores as the network.

CPU time is that of all processes of a run, and memory the largest sum of their proportional set sizes. The second table
says which processes take the CPU time.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.measuring import machine, random_model, versions
from levit_cli.data.inputs import walk

LEVIT = str(Path(sys.executable).with_name("levit"))
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.2
KINDS = {  # a part of the title of a process, and what the process does
    "_decode": "decode",
    "MapWorker": "actor",
    "levit predict": "driver",
    "raylet": "Ray",
    "gcs_server": "Ray",
}
OTHER = "other"


class Configuration(NamedTuple):
    """What is compared.

    Args:
        cores: the cores that all processes of a run may use.
        options: of ``levit predict``, besides the model and the inputs.
    """

    name: str
    cores: str
    options: tuple[str, ...] = ()


CONFIGURATIONS = (
    Configuration("local, 1 core", "0"),
    Configuration("1 actor, 1 core", "0", ("--ray", "local", "--actors", "1")),
    Configuration("local, 2 cores", "0,1"),
    Configuration("2 actors, 2 cores", "0,1", ("--ray", "local", "--actors", "2")),
)


class Usage(NamedTuple):
    """The measurements of one run."""

    wall_s: float
    cpu_s: dict[str, float]  # by the kind of process
    peak_mb: float


class Speed(NamedTuple):
    """The measurements of a configuration without its start-up, and its start-up."""

    images_per_s: float
    cpu_ms: float  # per image
    cpu_ms_by_kind: dict[str, float]
    startup_s: float
    startup_cpu_s: float
    peak_mb: float


def run(configuration: Configuration, model: str, photos: list[str], folder: Path) -> Usage:
    """Classify photos in a new process, and measure all its processes."""
    listed = folder / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in photos))
    output = folder / ("out" if configuration.options else "out.jsonl")
    command = [
        *("taskset", "-c", configuration.cores, LEVIT, "predict", "-q", "-m", model, "--files-from", str(listed)),
        *("--overwrite", "-o", str(output), *configuration.options),
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    cpu_s: dict[tuple[int, str], float] = {}
    kinds: dict[tuple[int, str], str] = {}
    peak_mb = 0.0
    while process.poll() is None:
        found = [*processes_of(process.pid)]
        for pid, started, seconds in found:
            cpu_s[pid, started] = seconds
            kinds[pid, started] = kind_of(pid) or kinds.get((pid, started), OTHER)
        peak_mb = max(peak_mb, sum(proportional_mb(pid) for pid, _, _ in found))
        time.sleep(SAMPLE_S)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    by_kind = dict.fromkeys(KINDS.values(), 0.0) | {OTHER: 0.0}
    for key, seconds in cpu_s.items():
        by_kind[kinds[key]] += seconds
    return Usage(time.perf_counter() - start, by_kind, peak_mb)


def kind_of(pid: int) -> str | None:
    """Return what a process does; None if its title does not tell. That of a worker of Ray names its current task."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        return next((kind for part, kind in KINDS.items() if part in title), None)
    return None


def processes_of(root: int) -> Iterator[tuple[int, str, float]]:
    """Yield the number, the start and the CPU seconds of a process and of all that descend from it."""
    fields = dict(_stats())
    children: dict[int, list[int]] = {}
    for pid, values in fields.items():
        children.setdefault(int(values[1]), []).append(pid)
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in fields:
            yield pid, fields[pid][19], (int(fields[pid][11]) + int(fields[pid][12])) / TICKS_PER_S
        waiting += children.get(pid, [])


def _stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()


def proportional_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def speed_of(short: Usage, long: Usage, count: int) -> Speed:
    """Return the speed of the ``2 * count`` photos by which two runs differ."""
    wall_s = long.wall_s - short.wall_s
    cpu_s = {kind: seconds - short.cpu_s[kind] for kind, seconds in long.cpu_s.items()}
    return Speed(
        2 * count / wall_s,
        1000 * sum(cpu_s.values()) / (2 * count),
        {kind: 1000 * seconds / (2 * count) for kind, seconds in cpu_s.items()},
        short.wall_s - wall_s / 2,
        sum(short.cpu_s.values()) - sum(cpu_s.values()) / 2,
        max(short.peak_mb, long.peak_mb),
    )


def measured(arguments: argparse.Namespace, model: str, folder: Path) -> dict[str, list[Speed]]:
    photos = [item.path for item in walk(arguments.folder)]
    short, long = ([*islice(cycle(photos), times * arguments.count)] for times in (1, 3))
    speeds: dict[str, list[Speed]] = {configuration.name: [] for configuration in CONFIGURATIONS}
    for number in range(arguments.rounds):
        for configuration in CONFIGURATIONS:
            usages = [run(configuration, model, paths, folder) for paths in (short, long)]
            speeds[configuration.name].append(speed := speed_of(usages[0], usages[1], arguments.count))
            print(f"round {number + 1}, {configuration.name}: {speed.images_per_s:.1f} images/s", file=sys.stderr)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--variant", default="levit-256")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        model = random_model(arguments.variant, str(Path(folder) / "model"))
        speeds = measured(arguments, model, Path(folder))
    print(f"{machine()}, {versions('ray', 'openvino')}; medians of {arguments.rounds} rounds")
    print_tables(speeds)
    print_ratios(speeds)


def print_tables(speeds: dict[str, list[Speed]]) -> None:
    print(f"{'':<20}{'images/s':>10}{'CPU ms/image':>14}{'start-up s':>12}{'its CPU s':>11}{'peak MB':>9}")
    for name, found in speeds.items():
        rows = ((it.images_per_s, it.cpu_ms, it.startup_s, it.startup_cpu_s, it.peak_mb) for it in found)
        rate, cpu_ms, startup_s, startup_cpu_s, peak_mb = map(median, zip(*rows, strict=True))
        print(f"{name:<20}{rate:>10.1f}{cpu_ms:>14.2f}{startup_s:>12.1f}{startup_cpu_s:>11.1f}{peak_mb:>9.0f}")
    kinds = [*dict.fromkeys(KINDS.values()), OTHER]
    print(f"\n{'CPU ms/image':<20}" + "".join(f"{kind:>10}" for kind in kinds))
    for name, found in speeds.items():
        print(f"{name:<20}" + "".join(f"{median(it.cpu_ms_by_kind[kind] for it in found):>10.2f}" for kind in kinds))
    print()


def print_ratios(speeds: dict[str, list[Speed]]) -> None:
    one, two = "1 actor, 1 core", "2 actors, 2 cores"
    for what, upper, lower in (("1 actor / local, 1 core", one, "local, 1 core"), ("2 actors / 1 actor", two, one)):
        pairs = [*zip(speeds[upper], speeds[lower], strict=True)]
        print(f"{what}, images/s: {median(a.images_per_s / b.images_per_s for a, b in pairs):.2f}")
        print(f"{what}, 1 / CPU ms: {median(b.cpu_ms / a.cpu_ms for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
