"""Measure the cost of decoding in processes: classify a folder with and without ``--isolate``, interleaved.

python -m benchmarks.isolation FOLDER [--counts 60,600] [--rounds 4] [--model demo]

The result is the total CPU time of all processes. Other work on the machine affects CPU time less than wall time.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import collect, cpu_s
from levit_cli.data.inputs import walk

MODES = {"threads": (), "processes": ("--isolate",)}


def run(command: list[str]) -> float:
    """Run a command and return its CPU seconds."""
    return cpu_s(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--counts", default="60,600", help="maximum numbers of photos, separated by commas")
    parser.add_argument("--rounds", type=int, default=4, help="number of interleaved rounds")
    parser.add_argument("--model", default="demo", help="model of levit predict")
    options = parser.parse_args()
    paths = [item.path for item in walk(str(options.folder))]
    levit = str(Path(sys.executable).with_name("levit"))
    with TemporaryDirectory() as temporary:
        for count in map(int, options.counts.split(",")):
            listed = Path(temporary, "list")
            listed.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths[:count]))
            base = [levit, "predict", "-m", options.model, "--files-from", str(listed), "-0", "-f", "jsonl", "-q"]
            runs = {mode: partial(run, [*base, *flags]) for mode, flags in MODES.items()}
            for mode, seconds in collect(runs, options.rounds).items():
                spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
                print(f"{count:6} images, {mode:<9} {median(seconds):6.2f} s  {spread}")


if __name__ == "__main__":
    main()
