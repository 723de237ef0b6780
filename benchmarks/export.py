"""Compare the records of an exported model's script with those of ``levit predict``.

python -m benchmarks.export FOLDER [--models demo …] [--images 500] [--to onnx openvino]

Each model is exported, then both programs classify the same images, spread evenly over the folder: ``predict.py`` with
the runtime alone, and ``levit predict`` in fp32 with Pillow's resizer.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from levit_cli.data.inputs import walk

IMAGES_PER_CALL = 500  # the length of a command line is limited


class Agreement(NamedTuple):
    """How well the records of two programs agree."""

    images: int
    same_first_class: int
    largest_difference: float
    same_otherwise: bool


def levit(*arguments: str | Path, stdin: str = "") -> bytes:
    """Run ``levit`` and return what it prints."""
    command = [sys.executable, "-m", "levit_cli", *map(str, arguments)]
    done = subprocess.run(command, input=stdin.encode(), stdout=subprocess.PIPE, check=False)
    if done.returncode > 1:
        sys.exit(done.returncode)
    return done.stdout


def records(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def scripted(script: Path, images: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the records that the script of an exported model prints."""
    found = []
    for start in range(0, len(images), IMAGES_PER_CALL):
        command: list[str | Path] = [sys.executable, script, *images[start : start + IMAGES_PER_CALL]]
        found += records(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return found


def compare(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> Agreement:
    """Compare the records of both programs one by one. A class below the first may swap places with an equal one."""
    firsts, largest, others = 0, 0.0, True
    for ours, theirs in zip(found, expected, strict=True):
        others &= (ours["path"], ours["status"]) == (theirs["path"], theirs["status"])
        mine, other = ({entry["index"]: entry["prob"] for entry in record.get("top", ())} for record in (ours, theirs))
        firsts += next(iter(mine), None) == next(iter(other), None)
        largest = max([largest, *(abs(mine[index] - other[index]) for index in mine.keys() & other.keys())])
    return Agreement(len(found), firsts, largest, others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--models", nargs="+", default=["demo"], help="models to export")
    parser.add_argument("--images", type=int, default=500, help="number of images")
    parser.add_argument("--to", nargs="+", default=["onnx", "openvino"], choices=["onnx", "openvino"], help="targets")
    options = parser.parse_args()
    paths = sorted(Path(item.path) for item in walk(str(options.folder)))
    images = paths[:: max(len(paths) // options.images, 1)][: options.images]
    print(
        "| model | target | images | same first class | largest difference of a probability | same paths and status |"
    )
    print("|---|---|---|---|---|---|")
    for model in options.models:
        listed = "".join(f"{path}\n" for path in images)
        settings = ("--precision", "fp32", "--resizer", "pillow", "-f", "jsonl", "-q")
        expected = records(levit("predict", "-m", model, "--files-from", "-", *settings, stdin=listed))
        for target in options.to:
            with TemporaryDirectory() as folder:
                levit("export", model, "-o", Path(folder, "out"), "--to", target)
                found = compare(scripted(Path(folder, "out", "predict.py"), images), expected)
            print(
                f"| {model} | {target} | {found.images:,} | {found.same_first_class:,} | "
                f"{found.largest_difference:.1e} | {'yes' if found.same_otherwise else 'no'} |"
            )


if __name__ == "__main__":
    main()
