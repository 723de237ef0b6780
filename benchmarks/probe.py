"""Measure ``levit probe`` from the start of the process to its end, and with the features in a cache.

python -m benchmarks.probe FOLDER [--variant levit-128S] [--rounds 3] [--precision fp32] [--isa AVX2]

FOLDER holds class folders, or train/ and val/. The model has random weights, on which the speed does not depend. The
instructions of the network are limited to those of ``--isa``, so that a newer CPU measures an older one. On a machine
that is shared, compare the CPU time, which counts all threads.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import Run, collect, machine, random_model, run_process, versions


def probe(options: argparse.Namespace, model: str, folder: Path, cache: Path | None) -> Run:
    """Run one probe. The run folder must be new, so its name is the number of those before it."""
    output = folder / f"run{len([*folder.iterdir()])}"
    command = [sys.executable, "-m", "levit_cli", "probe", options.folder, "-o", str(output), "-m", model]
    command += ["--precision", options.precision, *(["--cache", str(cache)] if cache else [])]
    return run_process(command, {**os.environ, "ONEDNN_MAX_CPU_ISA": options.isa})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--variant", default="levit-128S")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--isa", default="AVX2", help="the largest instruction set that oneDNN may use")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        model, runs = random_model(options.variant, f"{temporary}/model"), Path(temporary, "runs")
        runs.mkdir()
        results = collect(
            {
                "without a cache": lambda: probe(options, model, runs, None),
                "from the cache": lambda: probe(options, model, runs, Path(temporary, "cache")),
            },
            options.rounds,
        )
    print(f"{options.variant} in {options.precision} with {options.isa}; {machine()}")
    print(versions("openvino", "scikit-learn", "numpy"))
    for name, measured in results.items():
        wall_s, cpu_s = (median(getattr(run, unit) for run in measured) for unit in ("wall_s", "cpu_s"))
        print(f"{name:<16} {wall_s:6.1f} s, {cpu_s:6.1f} s of CPU time")


if __name__ == "__main__":
    main()
