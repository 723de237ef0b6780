"""Time ``levit sort`` and its ``--undo`` beside ``cp`` on the same files, interleaved.

python -m benchmarks.sort [--files 20000] [--bytes 20000] [--rounds 3]

The files are in 50 folders and have 100 labels. ``cp -rp`` is followed by ``sync -f``, because ``levit sort`` writes
copies to the disk, too. Wall time includes the start of the process; CPU time is that of the whole process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

LEVIT = str(Path(sys.executable).with_name("levit"))
MODES = ("copy", "move", "link", "symlink")


def write_files(folder: Path, count: int, size: int) -> Path:
    """Write files and a results file that lists them; return the results file."""
    results = folder / "results.jsonl"
    content = os.urandom(size)
    with results.open("w") as file:
        for number in range(count):
            path = folder / "photos" / str(number % 50) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(number.to_bytes(8, "big") + content)
            top = [{"index": number % 100, "label": f"class {number % 100}", "prob": 0.9}]
            file.write(json.dumps({"path": str(path), "status": "ok", "top": top}) + "\n")
    os.utime(results)
    return results


def timed(*command: str | Path) -> tuple[float, float]:
    """Run a command and return its wall time and its CPU time in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*map(str, command)], check=True, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).absolute()
        results, target = write_files(folder, options.files, options.bytes), folder / "sorted"
        for _ in range(options.rounds):
            copy = f"cp -rp '{folder / 'photos'}' '{folder / 'copy'}' && sync -f '{folder / 'copy'}'"
            times.setdefault("cp -rp, sync", []).append(timed("sh", "-c", copy))
            times.setdefault("rm -r", []).append(timed("rm", "-r", folder / "copy"))
            for mode in MODES:
                sort = timed(LEVIT, "sort", results, "--to", target, "--mode", mode)
                times.setdefault(f"--mode {mode}", []).append(sort)
                times.setdefault(f"--mode {mode}, again", []).append(
                    timed(LEVIT, "sort", results, "--to", target, "--mode", mode)
                )
                times.setdefault(f"--undo of {mode}", []).append(timed(LEVIT, "sort", "--undo", target))
    print(f"{options.files:,} files of {options.bytes:,} bytes, median of {options.rounds} rounds")
    for name, runs in times.items():
        print(f"{name:22} {median(wall for wall, _ in runs):6.1f} s wall, {median(cpu for _, cpu in runs):5.1f} s CPU")


if __name__ == "__main__":
    main()
