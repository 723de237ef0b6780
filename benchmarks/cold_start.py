"""Time a cold process that classifies one photo, and compare it with transformers' image-classification pipeline.

python -m benchmarks.cold_start [--rounds 7] [--variant levit-128S]

When levit runs a model for the first time, it compiles the network and caches the result; "levit, empty cache" measures
that first time. Both libraries read the same local Hugging Face folder (random weights) and the same photo. Wall time
and peak memory are those of the whole process, as counted by the kernel.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import Run, collect, machine, random_model, ratios, run_process, versions
from levit_cli.system.text import count_noun

PHOTO = Path(__file__).parent.parent / "examples" / "cat.jpg"
TRANSFORMERS = (
    "import sys; from transformers import pipeline; "
    "print(pipeline('image-classification', model=sys.argv[1], device='cpu')(sys.argv[2], top_k=5))"
)
COMPARED = (("levit", "transformers"), ("levit, empty cache", "transformers"), ("import typer, rich", "levit --help"))


def commands(model: str) -> dict[str, list[str]]:
    levit = str(Path(sys.executable).with_name("levit"))
    predict = [levit, "predict", str(PHOTO), "-m", model, "-f", "jsonl", "-q"]
    return {
        "levit": predict,
        "levit, empty cache": predict,
        "transformers": [sys.executable, "-c", TRANSFORMERS, model, str(PHOTO)],
        "import torch": [sys.executable, "-c", "import torch"],
        "levit --help": [levit, "--help"],
        "import typer, rich": [sys.executable, "-c", "import typer, rich"],
    }


def measure(variant: str, rounds: int) -> dict[str, list[Run]]:
    """Run each command once per round, interleaved."""
    with TemporaryDirectory() as temporary:
        model = random_model(variant, f"{temporary}/model")

        def run(name: str, command: list[str]) -> Run:
            cache = "empty" if name.endswith("empty cache") else "warm"
            shutil.rmtree(f"{temporary}/empty", ignore_errors=True)
            return run_process(command, os.environ | {"XDG_CACHE_HOME": f"{temporary}/{cache}"})

        runs: dict[str, Callable[[], Run]] = {
            name: partial(run, name, command) for name, command in commands(model).items()
        }
        return collect(runs, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variant", default="levit-128S")
    options = parser.parse_args()
    runs = measure(options.variant, options.rounds)
    print(f"{options.variant}, {machine()}; {versions('torch', 'transformers', 'openvino', 'typer')}")
    print(
        f"median of {count_noun(options.rounds, 'interleaved round')}\n\n| command | wall s | peak MB |\n|---|---|---|"
    )
    for name, measured in runs.items():
        wall_s, peak_mb = median(run.wall_s for run in measured), median(run.peak_mb for run in measured)
        print(f"| {name} | {wall_s:.2f} | {peak_mb:.0f} |")
    for ours, theirs in COMPARED:
        low, middle, high = ratios([run.wall_s for run in runs[ours]], [run.wall_s for run in runs[theirs]])
        print(f"\n{theirs} takes {middle:.2f} times as long as {ours} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
