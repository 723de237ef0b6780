"""Top-1 of a model on a folder of class folders: python -m benchmarks.accuracy FOLDER -m MODEL [--precision fp32].

Classes are matched to labels by the folders' names. ``--record NAME`` writes the figure into the configuration of a
local Hugging Face folder, where ``levit info`` and the table of ``levit predict`` find it.
"""

import argparse
import json
from math import sqrt
from pathlib import Path

from levit_cli.checkpoints import load
from levit_cli.checkpoints.metadata import CONFIG
from levit_cli.checkpoints.metadata_parts import OURS, Evaluation
from levit_cli.engines import EngineSpec, make_engine, usable_threads
from levit_cli.inputs import walk
from levit_cli.pipeline import DecodeAhead, predict
from levit_cli.preparing.reading import Reader


def measure(folder: Path, model: str, precision: str) -> tuple[int, int]:
    """(right, all) pictures; one that cannot be read counts as wrong."""
    checkpoint = load(model)
    engine = make_engine(checkpoint, EngineSpec(device="cpu", precision=precision))  # type: ignore[arg-type]
    right = total = 0
    ahead = DecodeAhead(walk(str(folder)), Reader(checkpoint.recipe), batch_size=32, workers=usable_threads())
    predictions = predict(ahead, engine, top_k=1)
    for prediction in predictions:
        total += 1
        if prediction.top:
            right += checkpoint.labels.names[prediction.top[0].class_index] == Path(prediction.path).parent.name
    return right, total


def record(folder: Path, evaluation: Evaluation) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config[OURS]["evaluation"] = vars(evaluation)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--record", metavar="NAME", help="name of the data set")
    options = parser.parse_args()
    right, total = measure(options.folder, options.model, options.precision)
    top1 = right / total
    margin = 1.96 * sqrt(top1 * (1 - top1) / total)
    print(f"top-1 {top1:.4f} ± {margin:.4f} (95 %), {right:,} of {total:,}, {options.model}, {options.precision}")
    if options.record:
        record(Path(options.model), Evaluation(options.record, total, round(top1, 4)))


if __name__ == "__main__":
    main()
