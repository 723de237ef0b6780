"""From a cold process to the labels of one photo, beside transformers' image-classification pipeline.

python -m benchmarks.cold_start [--rounds 7] [--variant levit-128S]

The first time that levit meets a model, it compiles the network and keeps the result; "empty cache" is that first time.
Both read the same local Hugging Face folder (random weights) and the same photo. Wall time and peak memory are those of
the whole process, as the kernel accounts for it.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import Run, machine, random_model, ratios, run_process, versions

PHOTO = Path(__file__).parent.parent / "examples" / "cat.jpg"
TRANSFORMERS = (
    "import sys; from transformers import pipeline; "
    "print(pipeline('image-classification', model=sys.argv[1], device='cpu')(sys.argv[2], top_k=5))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variant", default="levit-128S")
    options = parser.parse_args()
    levit = str(Path(sys.executable).with_name("levit"))
    with TemporaryDirectory() as temporary:
        folder = random_model(options.variant, f"{temporary}/model")
        commands = {
            "levit": [levit, "predict", str(PHOTO), "-m", folder, "-f", "jsonl", "-q"],
            "levit, empty cache": [levit, "predict", str(PHOTO), "-m", folder, "-f", "jsonl", "-q"],
            "transformers": [sys.executable, "-c", TRANSFORMERS, folder, str(PHOTO)],
            "import torch": [sys.executable, "-c", "import torch"],
            "levit --help": [levit, "--help"],
            "import typer, rich": [sys.executable, "-c", "import typer, rich"],
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(options.rounds + 1):
            for name, command in commands.items():
                cache = "empty" if name.endswith("empty cache") else "warm"
                shutil.rmtree(f"{temporary}/empty", ignore_errors=True)
                runs[name].append(run_process(command, os.environ | {"XDG_CACHE_HOME": f"{temporary}/{cache}"}))
    print(f"{options.variant}, {machine()}; {versions('torch', 'transformers', 'openvino', 'typer')}")
    print(f"median of {options.rounds} interleaved rounds\n\n| command | wall s | peak MB |\n|---|---|---|")
    for name, found in runs.items():
        del found[0]  # the first round fills the caches
        print(f"| {name} | {median(run.wall_s for run in found):.2f} | {median(run.peak_mb for run in found):.0f} |")
    pairs = (("levit", "transformers"), ("levit, empty cache", "transformers"), ("import typer, rich", "levit --help"))
    for ours, theirs in pairs:
        low, middle, high = ratios([run.wall_s for run in runs[ours]], [run.wall_s for run in runs[theirs]])
        print(f"\n{theirs} takes {middle:.2f} times as long as {ours} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
