"""Measure what a small or slow batch costs: few images with a large ``--batch-size``, and a list that arrives slowly.

python -m benchmarks.small_batches FOLDER [--count 40] [--rounds 5] [--model demo] [--pause 0.05]

The result is the CPU time of the process, interleaved. Other work on the machine affects CPU time less than wall time.
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.measuring import collect, cpu_s
from levit_cli.data.inputs import walk


def run(command: list[str], paths: list[str], pause_s: float) -> float:
    """Run a command, write one path after each pause, and return the command's CPU seconds."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    for path in paths:
        process.stdin.write(os.fsencode(path) + b"\0")
        if pause_s:
            process.stdin.flush()
            time.sleep(pause_s)
    process.stdin.close()
    return cpu_s(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--count", type=int, default=40, help="number of photos")
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
    parser.add_argument("--model", default="demo", help="model of levit predict")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between the paths of the slow list")
    options = parser.parse_args()
    paths = [item.path for item in islice(walk(str(options.folder)), options.count)]
    levit = str(Path(sys.executable).with_name("levit"))
    base = [levit, "predict", "-m", options.model, "--files-from", "-", "-0", "-f", "jsonl", "-q"]
    runs = {
        f"{kind} list, -b {size}": partial(run, [*base, "-b", str(size)], paths, pause_s)
        for kind, pause_s in (("quick", 0.0), ("slow", options.pause))
        for size in (16, 256)
    }
    for name, seconds in collect(runs, options.rounds).items():
        print(f"{len(paths)} images, {name:<18} {median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
