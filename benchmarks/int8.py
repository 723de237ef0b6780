"""Compare the speed of int8 with bf16 and fp32 in levit's engine, for the network alone.

python -m benchmarks.int8 [--variants levit-128S,levit-256] [--threads 1] [--batch-size 16] [--rounds 9]
python -m benchmarks.int8 --model FOLDER

The weights of a variant are random, and its graph is calibrated with noise: neither changes the speed. A FOLDER was
made by levit quantize. The precisions are measured in turns. The ratio is computed twice: from the wall clock, and from
the CPU time of the process, which other programs on the machine disturb less. Install the extra ``export``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measuring import machine, ratios, versions
from benchmarks.models import write_random_int8_model
from levit_cli.bench.protocol import Protocol, interleave
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import Precision
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import RefusedError
from levit_cli.system.cpu import INT8_FLAGS, has_int8_instructions
from levit_cli.system.text import count_noun

TURN_S = 0.3  # seconds of the warm-up and of each turn
PRECISIONS: tuple[Precision, ...] = ("int8", "bf16", "fp32")


@dataclass
class TimedStep:
    """One batch in an engine, with the CPU time that each call took."""

    step: Callable[[], Any]
    cpu_s: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        start = time.process_time()
        self.step()
        self.cpu_s.append(time.process_time() - start)


def measure(checkpoint: Checkpoint, threads: int, batch_size: int, rounds: int) -> None:
    """Print the speed of each precision that the CPU has, and the ratio of int8 to it."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *checkpoint.config.image_size, 3), np.uint8)
    steps: dict[str, TimedStep] = {}
    for precision in PRECISIONS:
        spec = EngineSpec("cpu", "openvino", precision, threads, batch_size=batch_size)
        try:
            engine = make_engine(checkpoint, spec)
        except RefusedError as error:
            print(f"skipped: {precision} ({error})")
            continue
        steps[precision] = TimedStep(lambda engine=engine: engine(pixels))  # type: ignore[misc]
    protocol = Protocol("quick", TURN_S, TURN_S * rounds, rounds, average="median")
    timings = interleave(dict(steps), protocol)
    print("| precision | images/s, median | images/s of CPU time | int8 / this: low / median / high | by CPU time |")
    print("|---|---|---|---|---|")
    int8_cpu_s = median(steps["int8"].cpu_s)
    for name, timing in timings.items():
        low, middle, high = ratios(timings["int8"].medians_s(), timing.medians_s())
        cpu_s = median(steps[name].cpu_s)
        print(
            f"| {name} | {batch_size / timing.median_s:.1f} | {batch_size / cpu_s:.1f} "
            f"| {low:.2f} / {middle:.2f} / {high:.2f} | {cpu_s / int8_cpu_s:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="levit-128S,levit-256", help="published variants, with random weights")
    parser.add_argument("--model", help="a folder that levit quantize made, instead of the variants")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each engine")
    parser.add_argument("--batch-size", type=int, default=16, help="images per batch")
    parser.add_argument("--rounds", type=int, default=9, help="number of interleaved rounds")
    options = parser.parse_args()
    int8 = "has" if has_int8_instructions() else "lacks"
    print(
        f"batch {options.batch_size}, {count_noun(options.threads, 'thread')}, {machine()}, which {int8} one of "
        f"{', '.join(sorted(INT8_FLAGS))}; {versions('openvino', 'nncf')}; "
        f"{count_noun(options.rounds, 'interleaved round')}"
    )
    for name in [options.model] if options.model else options.variants.split(","):
        print(f"\n{name}\n")
        with TemporaryDirectory() as folder:
            model = name if options.model else write_random_int8_model(name, Path(folder) / "int8")
            measure(load(model), options.threads, options.batch_size, options.rounds)


if __name__ == "__main__":
    main()
