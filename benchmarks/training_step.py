"""Measure how much faster ``levit finetune --compile`` trains: steps with and without it, interleaved.

python -m benchmarks.training_step [--model levit-128S] [--sizes 64,96,128] [--batch-size 128] [--rounds 12]

A step consists of a forward pass in bf16 autocast, a backward pass and an update, on one batch of random images.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measuring import ratios
from levit_cli.bench.protocol import Step, interleave, measure, single_steps
from levit_cli.engines.torch_compile import compiled_for_training
from levit_cli.finetune.optim import make_optimizer
from levit_cli.finetune.student import Heads, random_init
from levit_cli.model.config import VARIANTS, LevitConfig


def make_step(config: LevitConfig, batch: Tensor, *, is_compiled: bool) -> Step:
    """Return a function that runs one training step."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="levit-128S", choices=VARIANTS, help="published variant to train")
    parser.add_argument("--sizes", default="64,96,128", help="image sizes in pixels, separated by commas")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch")
    parser.add_argument("--rounds", type=int, default=12, help="number of interleaved rounds")
    options = parser.parse_args()
    for side in map(int, options.sizes.split(",")):
        config = replace(VARIANTS[options.model], num_classes=10, image_size=(side, side))
        batch = torch.randn(options.batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
        steps = {
            "eager": make_step(config, batch, is_compiled=False),
            "compiled": make_step(config, batch, is_compiled=True),
        }
        compilation_s = measure(steps["compiled"], 0).steps[0]
        timings = interleave(steps, single_steps(options.rounds))
        low, middle, high = ratios(timings["compiled"].steps, timings["eager"].steps)
        times = ", ".join(f"{name} {1000 * timing.median_s:.0f} ms" for name, timing in timings.items())
        print(f"{side:4} px: {times}, ratio {middle:.2f} ({low:.2f} to {high:.2f}); compilation: {compilation_s:.0f} s")


if __name__ == "__main__":
    main()
