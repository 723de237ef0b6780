"""Compare ``levit predict`` on the same photos in a folder and in other sources: speed, peak memory, records.

python -m benchmarks.sources FOLDER [--count 2000] [--rounds 5] [--model demo] [--sources folder tar ...]

The photos of FOLDER are copied, repeated if there are too few, and stored in each source. Each round runs all sources,
interleaved. The records of a source must be those of the folder but for their paths. The ratio is the folder's time
divided by the source's, computed for each round: below 1, the source is slower. On a machine that is shared, compare
the CPU time, which counts all threads.
"""

import argparse
import atexit
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring import Run, collect, machine, ratios, run_process, versions
from levit_cli.data.inputs import walk
from levit_cli.system.text import count_noun

Make = Callable[[list[Path], Path], list[str]]  # (photos, empty folder) -> arguments of ``levit predict``


def copy_photos(folder: Path, target: Path, count: int) -> list[Path]:
    """Copy photos to files whose names have the order of the copies."""
    target.mkdir()
    copies = []
    for number, item in enumerate(itertools.islice(itertools.cycle([*walk(str(folder))]), count)):
        copies.append(target / f"{number:06d}{Path(item.path).suffix}")
        shutil.copyfile(item.path, copies[-1])
    return copies


def in_folder(photos: list[Path], _: Path) -> list[str]:
    return [str(photos[0].parent)]


def in_tars(photos: list[Path], target: Path, *, shards: int, suffix: str = ".tar") -> list[str]:
    size = -(-len(photos) // shards)
    names = [str(target / f"{number}{suffix}") for number in range(shards)]
    for number, name in enumerate(names):
        with tarfile.open(name, "w:gz" if suffix.endswith("gz") else "w") as archive:
            for photo in photos[number * size : (number + 1) * size]:
                archive.add(photo, photo.name)
    return names


def in_zip(photos: list[Path], target: Path) -> list[str]:
    with zipfile.ZipFile(target / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for photo in photos:
            archive.write(photo, photo.name)
    return [str(target / "photos.zip")]


def in_bucket(photos: list[Path], _: Path) -> list[str]:
    """Serve the photos with ``benchmarks.static_s3``, which uses the same cores, but little of them."""
    command = [sys.executable, "-m", "benchmarks.static_s3", str(photos[0].parent)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    assert server.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return ["s3://bucket/"]


def in_parquet(photos: list[Path], target: Path) -> list[str]:
    """Write the photos as the library datasets of Hugging Face does, in row groups of 100."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))])
    with pq.ParquetWriter(target / "photos.parquet", schema) as writer:
        for start in range(0, len(photos), 100):
            rows = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos[start : start + 100]]
            writer.write_table(pa.table({"image": rows}, schema))
    return [str(target / "photos.parquet")]


SOURCES: dict[str, Make] = {
    "folder": in_folder,
    "tar": partial(in_tars, shards=1),
    "4 tars": partial(in_tars, shards=4),
    "tar.gz": partial(in_tars, shards=1, suffix=".tar.gz"),
    "zip": in_zip,
    "s3": in_bucket,
    "parquet": in_parquet,
}


def records_without_paths(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) | {"path": ""} for line in output.read_bytes().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--count", type=int, default=2000, help="number of photos")
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
    parser.add_argument("--model", default="demo", help="model as for levit predict")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=[*SOURCES], help="the sources to compare")
    options = parser.parse_args()
    levit = str(Path(sys.executable).with_name("levit"))
    names = list(dict.fromkeys(["folder", *options.sources]))
    with TemporaryDirectory() as temporary:
        photos = copy_photos(options.folder, Path(temporary) / "photos", options.count)
        functions: dict[str, Callable[[], Run]] = {}
        outputs: dict[str, Path] = {}
        for number, name in enumerate(names):
            target = Path(temporary) / str(number)
            target.mkdir()
            outputs[name] = target / "out.jsonl"
            command = [levit, "predict", "-m", options.model, "-q", "-o", str(outputs[name]), "--overwrite"]
            functions[name] = partial(run_process, [*command, *SOURCES[name](photos, target)])
        runs = collect(functions, options.rounds)
        expected = records_without_paths(outputs["folder"])
        differing = [name for name in names if records_without_paths(outputs[name]) != expected]
    print(
        f"{count_noun(options.count, 'photo')}, {options.model}, {machine()}; {versions('openvino', 'pillow')}; "
        f"{count_noun(options.rounds, 'interleaved round')}\n"
    )
    print("| source | photos/s | speed / folder's (lowest to highest) | in CPU time | peak MB | peak / folder's |")
    print("|---|---|---|---|---|---|")
    wall_s = {name: [run.wall_s for run in runs[name]] for name in names}
    cpu_s = {name: [run.cpu_s for run in runs[name]] for name in names}
    peak_mb = {name: median(run.peak_mb for run in runs[name]) for name in names}
    for name in names:
        wall, cpu = ("{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios(s[name], s["folder"])) for s in (wall_s, cpu_s))
        print(
            f"| {name} | {options.count / median(wall_s[name]):.0f} | {wall} | {cpu} | "
            f"{peak_mb[name]:.0f} | {peak_mb[name] / peak_mb['folder']:.2f} |"
        )
    if differing:
        raise SystemExit(f"The records differ from those of the folder: {', '.join(differing)}")
    print("\nThe records are those of the folder, but for the paths.")


if __name__ == "__main__":
    main()
