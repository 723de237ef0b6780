"""A folder of photos from a cold process to records, beside transformers' pipeline.

python -m benchmarks.folder FOLDER [--count 1000] [--variant levit-128S] [--rounds 3] [--decode exact|fast]

Both read the same local Hugging Face folder (random weights) and the same photos, transformers in batches of 16. The
bound is what our own decoding and network would take if they were spread over the cores without a gap: each is timed
alone, on one thread, in the same run. levit's share of it is given for the whole process, and from the first image to
the last record, as its closing line tells.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import machine, random_model, ratios, run_process, versions
from levit_cli.choices import Decoding, Precision
from levit_cli.data.inputs import Input, walk
from levit_cli.engines.spec import usable_threads

BOUND_PHOTOS = 128
CLOSING_LINE = re.compile(r"images in ([\d.]+) s")
TRANSFORMERS = """
import sys
from transformers import pipeline
model, listed = sys.argv[1:]
classify = pipeline("image-classification", model=model, device="cpu", batch_size=16)
for answer in classify((line for line in open(listed).read().split("\\n")[:-1]), top_k=5):
    print(answer)
"""


def bound_s(model: str, paths: list[str], decoding: Decoding, precision: Precision) -> tuple[float, float]:
    """Seconds of one core that a photo takes: to read, decode and resize it; and in the network."""
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
        _seconds(lambda: [reader(Input(path)) for path in sample]) / len(sample),
        _seconds(lambda: [engine(batch) for batch in batches]) / (16 * len(batches)),
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--variant", default="levit-128S")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", default="exact", choices=("exact", "fast"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--alone", action="store_true", help="without transformers")
    options = parser.parse_args()
    paths = [item.path for item in walk(str(options.folder))][: options.count]
    levit = str(Path(sys.executable).with_name("levit"))
    with TemporaryDirectory() as temporary:
        model = random_model(options.variant, f"{temporary}/model")
        listed = Path(temporary) / "list.txt"
        listed.write_text("".join(f"{path}\n" for path in paths))
        ours = [levit, "predict", "-m", model, "--files-from", str(listed), "-f", "jsonl"]
        commands = {"levit": [*ours, "--decode", options.decode, "--precision", options.precision]}
        if not options.alone:
            commands["transformers"] = [sys.executable, "-c", TRANSFORMERS, model, str(listed)]
        wall_s: dict[str, list[float]] = {name: [] for name in commands}
        bounds = []
        streaming_s: list[float] = []
        for _ in range(options.rounds):
            for name, command in commands.items():
                run = run_process(command)
                wall_s[name].append(run.wall_s)
                if name == "levit":
                    streaming_s.append(float(CLOSING_LINE.findall(run.said)[-1]))
            bounds.append(bound_s(model, paths, options.decode, options.precision))
    cores = usable_threads()
    decode_s, network_s = (median(times) for times in zip(*bounds, strict=True))
    bound = len(paths) * (decode_s + network_s) / cores
    print(
        f"{len(paths):,} photos, {options.variant}, {options.precision}, --decode {options.decode}, {machine()}; "
        f"{versions('torch', 'transformers', 'openvino', 'pillow')}; {options.rounds} interleaved rounds\n"
    )
    print("| command | wall s, median | photos/s |\n|---|---|---|")
    for name, found in wall_s.items():
        print(f"| {name} | {median(found):.2f} | {len(paths) / median(found):.1f} |")
    print(f"| bound on {cores} cores | {bound:.2f} | {len(paths) / bound:.1f} |")
    print(f"\none core: {1000 * decode_s:.2f} ms decoding, {1000 * network_s:.2f} ms network a photo")
    whole, streaming = (100 * bound / median(times) for times in (wall_s["levit"], streaming_s))
    print(f"levit reaches {whole:.0f} % of the bound, start-up included; {streaming:.0f} % without")
    if "transformers" in wall_s:
        low, middle, high = ratios(wall_s["levit"], wall_s["transformers"])
        print(f"transformers takes {middle:.2f} times as long ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
