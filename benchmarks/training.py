"""Compare a training step of ``levit finetune`` with transformers' Trainer, from photo files to updated weights.

python -m benchmarks.training FOLDER [--variant levit-128S] [--image-size 224] [--batch-size 32] [--precision fp32|bf16]

Both start from random weights and train on the same photos, with the same batch size, image size and precision, random
crops, flips, fused AdamW and clipped gradients. Both load the photos in the training process, so that their CPU time is
that of the process. Each round runs a few steps of each in turn. ``network`` measures the step alone, on images that
are already loaded. ``levit finetune`` also keeps a moving average of the weights, and its time is included.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import machine, ratios, versions
from levit_cli.choices import Precision
from levit_cli.data.image_folder import Sample
from levit_cli.data.input import Input
from levit_cli.finetune.data import CROP_RATIO, EpochBatches, TrainingImages, batches_of, training_loader
from levit_cli.finetune.ddp import Processes
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.state import make_train_state
from levit_cli.finetune.step import StepContext, train_step
from levit_cli.finetune.student import random_init
from levit_cli.images.transforms import IMAGENET_MEAN, IMAGENET_STD, transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.predict.reader import read_image
from levit_cli.system.progress import silent
from levit_cli.system.text import count_noun

NUM_CLASSES = 10
CPU = torch.device("cpu")
PEAK_LR, WEIGHT_DECAY = 1e-3, 0.025


class Seconds(NamedTuple):
    """The median time of a step: wall time, and CPU time of all threads."""

    wall_s: float
    cpu_s: float


class StepClock:
    """Collects the times between calls of ``tick``."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.times.append((time.perf_counter(), time.process_time()))

    def median(self) -> Seconds:
        pairs = list(zip(self.times, self.times[1:], strict=False))
        wall_s, cpu_s = (median(after[kind] - before[kind] for before, after in pairs) for kind in (0, 1))
        return Seconds(wall_s, cpu_s)


Turn = Callable[[int], Seconds]  # runs this number of timed steps, after an untimed one


def our_turns(config: LevitConfig, settings: Settings, samples: Sequence[Sample]) -> tuple[Turn, Turn]:
    """Return the turns of levit with photo files and with one loaded batch."""
    state = make_train_state(random_init(config), settings, Processes(0, 1, CPU), silent)
    context = StepContext(settings, 1000, transform_for("hf", config.image_size), None, None, CPU)
    images = TrainingImages(samples, settings, config.image_size)

    def train(batches: Any) -> Seconds:
        clock = StepClock()
        for step, (pixels, targets) in enumerate(batches):
            train_step(state, context, step, pixels, targets)
            clock.tick()
        return clock.median()

    def from_files(steps: int) -> Seconds:
        loader = training_loader(images, EpochBatches(len(samples), settings, 0, 0), 0)
        return train(islice(batches_of(loader), steps + 1))

    batch = loaded_batch(config, settings)
    return from_files, lambda steps: train([batch] * (steps + 1))


def loaded_batch(config: LevitConfig, settings: Settings) -> tuple[Tensor, Tensor]:
    pixels = torch.randint(0, 256, (settings.batch_size, 3, *config.image_size), dtype=torch.uint8)
    return pixels, torch.arange(settings.batch_size) % NUM_CLASSES


class TrainerImages(torch.utils.data.Dataset[dict[str, Any]]):
    """The photos as transformers' example ``run_image_classification.py`` prepares them."""

    def __init__(self, samples: Sequence[Sample], settings: Settings, image_size: tuple[int, int]) -> None:
        from torchvision import transforms

        self.samples = samples
        bicubic = transforms.InterpolationMode.BICUBIC
        scale = (settings.crop_scale, 1.0)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size, scale=scale, ratio=CROP_RATIO, interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.samples[index]
        return {"pixel_values": self.transform(read_image(image)), "labels": target}


class LoadedImages(torch.utils.data.Dataset[dict[str, Any]]):
    """Normalized images that are loaded already, for ever the same one."""

    def __init__(self, count: int, image_size: tuple[int, int]) -> None:
        self.count, self.image = count, torch.randn(3, *image_size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.image, "labels": index % NUM_CLASSES}


def trainer_turns(config: LevitConfig, settings: Settings, samples: Sequence[Sample], folder: str) -> tuple[Turn, Turn]:
    """Return the turns of transformers' Trainer with photo files and with loaded images."""
    import transformers

    network = transformers.LevitForImageClassification(
        transformers.LevitConfig(
            image_size=config.image_size[0],
            hidden_sizes=list(config.hidden_sizes),
            num_attention_heads=list(config.num_heads),
            depths=list(config.depths),
            key_dim=list(config.key_dims),
            num_labels=config.num_classes,
        )
    )

    def turn(images: torch.utils.data.Dataset[dict[str, Any]], steps: int) -> Seconds:
        clock = StepClock()

        class Ticks(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.tick()

        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=settings.batch_size, max_steps=steps + 1, use_cpu=True,
            bf16=settings.precision == "bf16", learning_rate=PEAK_LR, weight_decay=WEIGHT_DECAY,
            optim="adamw_torch_fused", label_smoothing_factor=settings.label_smoothing, save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        transformers.Trainer(network, arguments, train_dataset=images, callbacks=[Ticks()]).train()
        return clock.median()

    photos, loaded = TrainerImages(samples, settings, config.image_size), LoadedImages(len(samples), config.image_size)
    return lambda steps: turn(photos, steps), lambda steps: turn(loaded, steps)


def photos_of(folder: Path, count: int) -> list[Sample]:
    """Return ``count`` photos of a folder with made-up classes; a small folder is repeated."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"There are no photos in {folder}")
    return [(Input(str(path)), index % NUM_CLASSES) for index, path in enumerate(islice(cycle(paths), count))]


def report(name: str, batch_size: int, ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> str:
    rows = []
    for kind, index in (("wall", 0), ("CPU", 1)):
        own, other = [turn[index] for turn in ours], [turn[index] for turn in theirs]
        low, middle, high = ratios(own, other)
        rate = f"{batch_size / median(own):.1f} | {batch_size / median(other):.1f}"
        rows.append(f"| {name} | {kind} | {rate} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photos to train on; their classes do not matter")
    parser.add_argument("--variant", default="levit-128S", choices=VARIANTS, help="published variant")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="precision of both")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 for all cores")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each program in a round")
    parser.add_argument("--rounds", type=int, default=7, help="number of interleaved rounds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads or torch.get_num_threads())
    size, precision = options.image_size, options.precision
    compare(options, replace(VARIANTS[options.variant], num_classes=NUM_CLASSES, image_size=(size, size)), precision)


def compare(options: argparse.Namespace, config: LevitConfig, precision: Precision) -> None:
    settings = Settings(
        model=options.variant, batch_size=options.batch_size, learning_rate=PEAK_LR, weight_decay=WEIGHT_DECAY,
        precision=precision, device="cpu",
    )  # fmt: skip
    samples = photos_of(options.folder, (options.steps + 1) * options.batch_size)
    with TemporaryDirectory() as folder:
        ours, theirs = our_turns(config, settings, samples), trainer_turns(config, settings, samples, folder)
        results: dict[str, tuple[list[Seconds], list[Seconds]]] = {}
        for _ in range(options.rounds):
            for name, own, other in zip(("photo files", "network"), ours, theirs, strict=True):
                times = results.setdefault(name, ([], []))
                times[0].append(own(options.steps))
                times[1].append(other(options.steps))
    print(
        f"\n{options.variant}, {config.image_size[0]} px, batch {options.batch_size}, {precision}, "
        f"{count_noun(torch.get_num_threads(), 'thread')}; {machine()}, {torch.backends.cpu.get_cpu_capability()}; "
        f"{versions('torch', 'transformers')}; {count_noun(options.rounds, 'interleaved round')}\n\n"
        "| from | time | levit images/s | Trainer images/s | levit's speed / Trainer's: median (low to high) |\n"
        "|---|---|---|---|---|"
    )
    for name, (own_times, other_times) in results.items():
        print(report(name, options.batch_size, own_times, other_times))


if __name__ == "__main__":
    main()
