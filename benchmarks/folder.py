"""Time a cold process that classifies a folder of photos, and compare it with transformers' pipeline.

python -m benchmarks.folder FOLDER [--count 1000] [--variant levit-128S] [--rounds 3] [--decode exact|fast]
python -m benchmarks.folder FOLDER --precision int8 [--model INT8_FOLDER]

Both libraries read the same local Hugging Face folder (random weights, or --model) and the same photos; transformers
uses batches of 16. An int8 folder also holds the original weights, which transformers reads.

The bound is the time that levit's decoding and network would take if they kept all cores busy. Both are timed
separately, on one thread, in the same run. The speed of levit is also printed as a percentage of the bound, for the
whole process and for the time from the first image to the last record, which levit reports in its last line.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from math import nan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import collect, machine, random_model, ratios, run_process, versions
from levit_cli.bench.protocol import measure
from levit_cli.choices import Decoding, Precision
from levit_cli.data.inputs import Input, walk
from levit_cli.system.cpu import usable_threads
from levit_cli.system.text import count_noun

BOUND_PHOTOS = 128
CLOSING_LINE = re.compile(r"images? in ([\d.]+) s")
TRANSFORMERS = """
import sys
from transformers import pipeline
model, listed = sys.argv[1:]
classify = pipeline("image-classification", model=model, device="cpu", batch_size=16)
for predictions in classify((line for line in open(listed).read().split("\\n")[:-1]), top_k=5):
    print(predictions)
"""


def process_s(command: list[str]) -> tuple[float, float]:
    """Run a command; return its wall time and, for levit, the seconds from the first image to the last record."""
    run = run_process(command)
    reported_s = CLOSING_LINE.findall(run.stderr)
    return run.wall_s, float(reported_s[-1]) if reported_s else nan


def bound_s(model: str, paths: list[str], decoding: Decoding, precision: Precision) -> tuple[float, float]:
    """Return the seconds per photo on one core: for reading, decoding and resizing, and for the network."""
    import numpy as np

    from levit_cli.checkpoints import load
    from levit_cli.engines import EngineSpec, make_engine
    from levit_cli.predict.reader import Reader

    checkpoint = load(model)
    engine = make_engine(checkpoint, EngineSpec("cpu", "openvino", precision, threads=1, batch_size=16))
    reader = Reader(checkpoint.transform, decoding)
    sample = paths[:BOUND_PHOTOS]
    pixels = [reader(Input(path)) for path in sample]
    batches = [np.stack(pixels[start : start + 16]) for start in range(0, len(pixels) - 15, 16)]
    engine(batches[0])
    return (
        measure(lambda: [reader(Input(path)) for path in sample], 0).mean_s / len(sample),
        measure(lambda: [engine(batch) for batch in batches], 0).mean_s / (16 * len(batches)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--count", type=int, default=1000, help="maximum number of photos")
    parser.add_argument("--variant", default="levit-128S", help="published variant; its weights are random")
    parser.add_argument("--rounds", type=int, default=3, help="number of interleaved rounds")
    parser.add_argument("--decode", default="exact", choices=("exact", "fast"), help="decoding of levit")
    parser.add_argument("--model", help="local Hugging Face folder to use instead of a variant")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "int8"), help="precision of levit"
    )
    parser.add_argument("--alone", action="store_true", help="do not run transformers")
    options = parser.parse_args()
    paths = [item.path for item in walk(str(options.folder))][: options.count]
    levit = str(Path(sys.executable).with_name("levit"))
    with TemporaryDirectory() as temporary:
        model = options.model or random_model(options.variant, f"{temporary}/model", int8=options.precision == "int8")
        listed = Path(temporary) / "list.txt"
        listed.write_text("".join(f"{path}\n" for path in paths))
        ours = [levit, "predict", "-m", model, "--files-from", str(listed), "-f", "jsonl"]
        commands = {"levit": [*ours, "--decode", options.decode, "--precision", options.precision]}
        if not options.alone:
            commands["transformers"] = [sys.executable, "-c", TRANSFORMERS, model, str(listed)]
        functions: dict[str, Callable[[], tuple[float, float]]] = {
            name: partial(process_s, command) for name, command in commands.items()
        }
        functions["bound"] = partial(bound_s, model, paths, options.decode, options.precision)
        seconds = collect(functions, options.rounds)
    decode_s, network_s = (median(times) for times in zip(*seconds.pop("bound"), strict=True))
    wall_s = {name: [wall for wall, _ in times] for name, times in seconds.items()}
    streaming_s = [streaming for _, streaming in seconds["levit"]]
    cores = usable_threads()
    bound = len(paths) * (decode_s + network_s) / cores
    print(
        f"{count_noun(len(paths), 'photo')}, {options.model or options.variant}, {options.precision}, "
        f"--decode {options.decode}, {machine()}; {versions('torch', 'transformers', 'openvino', 'pillow')}; "
        f"{count_noun(options.rounds, 'interleaved round')}\n"
    )
    print("| command | wall s, median | photos/s |\n|---|---|---|")
    for name, times in wall_s.items():
        print(f"| {name} | {median(times):.2f} | {len(paths) / median(times):.1f} |")
    print(f"| bound on {count_noun(cores, 'core')} | {bound:.2f} | {len(paths) / bound:.1f} |")
    print(f"\none core: {1000 * decode_s:.2f} ms for decoding and {1000 * network_s:.2f} ms for the network per photo")
    whole, streaming = (100 * bound / median(times) for times in (wall_s["levit"], streaming_s))
    print(f"levit reaches {whole:.0f} % of the bound with its start-up and {streaming:.0f} % without it")
    if "transformers" in wall_s:
        low, middle, high = ratios(wall_s["levit"], wall_s["transformers"])
        print(f"transformers takes {middle:.2f} times as long as levit ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
