"""What ``levit finetune --compile`` gains: steps of training with and without it, in turns.

python -m benchmarks.training_step [--model levit-128S] [--sizes 64,96,128] [--batch-size 128] [--rounds 12]

A step is forward, backward and update in bf16 autocast, of random images that are there already.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measuring import take_turns
from levit_cli.engines.torch_compile import compiled_for_training
from levit_cli.finetune.optim import make_optimizer
from levit_cli.finetune.student import Heads, random_init
from levit_cli.model.config import VARIANTS, LevitConfig


def stepper(config: LevitConfig, batch: Tensor, *, is_compiled: bool) -> Callable[[], None]:
    """A function that does one step."""
    network = random_init(config).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, 1e-3, 0.025)
    heads: nn.Module = Heads(network)
    run = compiled_for_training(heads, "cpu") if is_compiled else heads
    targets = torch.arange(len(batch)) % config.num_classes

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(batch)
        sum(F.cross_entropy(head.float(), targets) for head in logits).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_of(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="levit-128S", choices=VARIANTS)
    parser.add_argument("--sizes", default="64,96,128")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    for side in map(int, options.sizes.split(",")):
        config = replace(VARIANTS[options.model], num_classes=10, image_size=(side, side))
        batch = torch.randn(options.batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
        eager, compiled = (stepper(config, batch, is_compiled=how) for how in (False, True))
        seconds_of(eager)
        first = seconds_of(compiled)
        found = take_turns(
            {"eager": partial(seconds_of, eager), "compiled": partial(seconds_of, compiled)}, options.rounds
        )
        pairs = sorted(a / b for a, b in zip(found["eager"], found["compiled"], strict=True))
        times = ", ".join(f"{how} {1000 * median(times):.0f} ms" for how, times in found.items())
        print(
            f"{side:4} px: {times}, {median(pairs):.2f}x ({pairs[0]:.2f} to {pairs[-1]:.2f}); to compile: {first:.0f} s"
        )


if __name__ == "__main__":
    main()
