"""Compare the speed of ``levit embed`` with that of ``levit predict``, and measure the memory of a search.

python -m benchmarks.embed speed FOLDER [--model demo] [--count 1000] [--rounds 5]
python -m benchmarks.embed memory [--count 500000]

speed: cold processes, interleaved, on the same list of photos; medians of wall time and of CPU time.
memory: writes a made index in float16 and searches it for one photo. The peak memory is that of the whole
command, the model included.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import Run, machine, run_process
from levit_cli.data.inputs import walk

LEVIT = str(Path(sys.executable).with_name("levit"))
VARIANT, SIZE = "levit-128S", 384  # a model with random weights, and the length of its vectors
FORMATS = ("npz", "parquet", "jsonl")


def speed(options: argparse.Namespace) -> None:
    paths = [item.path for item in walk(str(options.folder))][: options.count]
    with TemporaryDirectory() as folder:
        listed = Path(folder, "list")
        listed.write_text("".join(f"{path}\n" for path in paths))
        common = ["-m", options.model, "--files-from", str(listed), "--overwrite", "-o"]
        commands = {"predict": [LEVIT, "predict", *common, f"{folder}/a.jsonl"]}
        commands |= {f"embed {name}": [LEVIT, "embed", *common, f"{folder}/b.{name}"] for name in FORMATS}
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for command in commands.values():  # not timed: the files and programs come from the disk
            run_process(command)
        for _ in range(options.rounds):
            for name, command in commands.items():
                runs[name].append(run_process(command))
    report(runs, len(paths))


def report(runs: dict[str, list[Run]], count: int) -> None:
    base = runs["predict"]
    for name, measured in runs.items():
        wall = median(run.wall_s for run in measured)
        ratio = median(ours.wall_s / run.wall_s for ours, run in zip(base, measured, strict=True))
        cpu_ratio = median(ours.cpu_s / run.cpu_s for ours, run in zip(base, measured, strict=True))
        peak = max(run.peak_mb for run in measured)
        print(
            f"{name:<14} {wall:6.2f} s, {count / wall:6.1f} images/s, speed {ratio:.3f} of predict "
            f"({cpu_ratio:.3f} by CPU time), peak {peak:.0f} MB"
        )


def memory(options: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        photo, index = Path(folder, "photo.png"), Path(folder, "index.npz")
        run_process(
            [sys.executable, "-m", "benchmarks.embed", "make", str(photo), str(index), json.dumps(vars(options))]
        )
        run = run_process([LEVIT, "similar", str(photo), "--index", str(index), "-m", options.model])
        print(f"{options.count:,} x {options.size} in float16, {index.stat().st_size / 1e6:.0f} MB on the disk")
        print(f"similar: {run.wall_s:.1f} s, {run.cpu_s:.1f} s of CPU, peak {run.peak_mb:.0f} MB")


def make(photo: str, index: str, count: int, size: int) -> None:
    """Write a photo and an index. This is done in a process of its own, so that the one that measures stays small."""
    import numpy as np
    from PIL import Image

    from levit_cli.embed.npz import write_npz
    from levit_cli.embed.spool import Spool
    from levit_cli.predict.pipeline import Embedding

    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (200, 300, 3), np.uint8)).save(photo)
    spool = Spool(Path(index).parent, size, "float16")
    for start in range(0, count, 10_000):
        for number, vector in enumerate(generator.standard_normal((10_000, size)).astype(np.float16), start=start):
            spool.add(Embedding(f"photos/2024/holiday/{number:08}.jpg", vector))
    with open(index, "wb") as file:
        write_npz(spool, file, {})
    spool.close()


def main() -> None:
    if sys.argv[1:2] == ["make"]:
        photo, index, text = sys.argv[2:]
        made = json.loads(text)
        return make(photo, index, made["count"], made["size"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("folder", nargs="?", help="folder of photos")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--count", type=int, help="photos, or vectors of the index")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.count = options.count or {"speed": 1000, "memory": 500_000}[options.what]
    print(machine())
    return {"speed": speed, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
