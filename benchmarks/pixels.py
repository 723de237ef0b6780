"""Compare levit's pixels with those of plain Pillow, and the CPU time that both need for them.

python -m benchmarks.pixels FOLDER [--count 1000] [--rounds 7] [--model MODEL]

Plain Pillow opens a file, decodes it, resizes the whole image, and crops it, as torchvision, timm and transformers'
processor for Pillow do. The first table compares the values at 224 x 224 pixels, for each preprocessing that resizes
with Pillow. The second one gives the CPU time of one process per photo, from file to pixels. Both programs read each
photo in turns. With ``--model``, the third table counts the photos whose first class is the same for the pixels of
levit and of plain Pillow, with the preprocessing of the model, computed in fp32.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measuring import collect, machine, ratios, versions
from levit_cli.checkpoints import load
from levit_cli.choices import PreprocessingName, Resizer
from levit_cli.data.inputs import Input, walk
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.images.decode import decode
from levit_cli.images.transforms import Transform, transform_for
from levit_cli.predict.reader import Reader

Pixels = NDArray[np.uint8]
Read = Callable[[str], Pixels]
RESIZERS: tuple[Resizer, ...] = ("simd", "pillow")
BATCH_SIZE = 16


def resize_then_crop(image: Image.Image, transform: Transform) -> Pixels:
    """Resize the whole image with Pillow, then crop it."""
    width, height = transform.resized_size(*image.size)
    crop_height, crop_width = transform.crop_size
    left, top = transform.crop_offset(width, crop_width), transform.crop_offset(height, crop_height)
    resized = image.resize((width, height), Image.Resampling[transform.filter.upper()])
    return np.asarray(resized.crop((left, top, left + crop_width, top + crop_height)))


def plain_pillow(path: str, transform: Transform) -> Pixels:
    """Return the pixels of a file as a program on Pillow alone reads them."""
    with Image.open(path) as image:
        return resize_then_crop(image.convert("RGB"), transform)


def levit(transform: Transform, resizer: Resizer) -> Read:
    """Return the function of ``levit predict`` that reads a file and returns its pixels."""
    reader = Reader(transform, resizer=resizer)
    return lambda path: reader(Input(path))


def differences(paths: Sequence[str], transform: Transform, resizer: Resizer) -> Iterator[tuple[int, float]]:
    """Yield for each image the largest difference of a value and the fraction of values that differ."""
    reader = Reader(transform, resizer=resizer)
    for path in paths:
        image = decode(Path(path).read_bytes())
        difference = np.abs(reader.preprocess(image).astype(int) - resize_then_crop(image, transform))
        yield int(difference.max()), float((difference > 0).mean())


def print_differences(paths: Sequence[str]) -> None:
    print("| resizer | preprocessing | photos | largest difference | mean % of values | worst photo | above 1 % |")
    print("|---|---|---|---|---|---|---|")
    for resizer in RESIZERS:
        for name in get_args(PreprocessingName):
            transform = transform_for(name, (224, 224))
            if transform.resizer == "pillow":
                largest, fractions = zip(*differences(paths, transform, resizer), strict=True)
                above = sum(fraction > 0.01 for fraction in fractions)
                print(
                    f"| {resizer} | {name} | {len(fractions):,} | {max(largest)} | {100 * np.mean(fractions):.4f} % | "
                    f"{100 * max(fractions):.3f} % | {above} |"
                )


def cpu_ms(read: Read, path: str) -> float:
    start = time.process_time()
    read(path)
    return 1000 * (time.process_time() - start)


def print_times(paths: Sequence[str], rounds: int) -> None:
    transform = transform_for("hf", (224, 224))
    reads: dict[str, Read] = {"plain Pillow": partial(plain_pillow, transform=transform)}
    reads |= {f"levit --resizer {resizer}": levit(transform, resizer) for resizer in RESIZERS}
    totals = {name: [0.0] * rounds for name in reads}
    for path in paths:
        turns = {name: partial(cpu_ms, read, path) for name, read in reads.items()}
        for name, values in collect(turns, rounds).items():
            totals[name] = [total + value / len(paths) for total, value in zip(totals[name], values, strict=True)]
    print("| program | CPU ms per photo | plain Pillow takes as long, times |")
    print("|---|---|---|")
    for name, values in totals.items():
        lowest, middle, highest = ratios(values, totals["plain Pillow"])
        print(f"| {name} | {median(values):.2f} | {middle:.2f} ({lowest:.2f} to {highest:.2f}) |")


def print_agreement(paths: Sequence[str], model: str) -> None:
    checkpoint = load(model)
    engine = make_engine(checkpoint, EngineSpec("cpu", "openvino", "fp32"))

    def classes(read: Read) -> NDArray[np.int64]:
        batches = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]
        return np.concatenate([engine(np.stack([*map(read, batch)])).argmax(axis=1) for batch in batches])

    plain = classes(partial(plain_pillow, transform=checkpoint.transform))
    print("| resizer | photos with the same first class |")
    print("|---|---|")
    for resizer in RESIZERS:
        same = int((classes(levit(checkpoint.transform, resizer)) == plain).sum())
        print(f"| {resizer} | {same:,} of {len(paths):,}, {100 * same / len(paths):.3f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--count", type=int, default=1000, help="maximum number of photos; 0 for all")
    parser.add_argument("--rounds", type=int, default=7, help="how often each photo is timed; 0 to skip it")
    parser.add_argument("--model", help="compare the first classes of this model instead of the values")
    options = parser.parse_args()
    paths = [item.path for item in walk(str(options.folder))]
    paths = paths[: options.count or len(paths)]
    if options.model:
        print_agreement(paths, options.model)
    else:
        print_differences(paths)
    if options.rounds:
        print()
        print_times(paths, options.rounds)
    print(f"\n{machine()}; {versions('pillow', 'cykooz-resizer')}")


if __name__ == "__main__":
    main()
