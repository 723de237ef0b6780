"""Measure what ``levit duplicates`` finds and how fast it groups vectors.

python -m benchmarks.duplicates quality FOLDER [--model demo] [--photos 1000] [--copies 100] [--seed 0] [--ignore FILE]
python -m benchmarks.duplicates quality FOLDER --together
python -m benchmarks.duplicates quality FOLDER --index          (vectors only)
python -m benchmarks.duplicates speed [--count 100000] [--size 256]
python -m benchmarks.duplicates linkage FOLDER

quality: takes photos of a folder at random, makes copies of each kind, and runs the command on all of them. Each pair
of images in a group counts: a pair is right if both come from the same photo. Recall is the share of copies that are in
a group with their photo. The photos must not contain duplicates of their own: the command is run on the photos alone
first, and the pairs that it finds are printed; look at them, and name real duplicates in the file --ignore, one path
per line. --together makes all copies from the same photos, so that each has five copies.

speed: groups made vectors: unlike ones, pairs, equal ones, one dense ball and one at the threshold.

linkage: compares complete with average and single linkage on the vectors of the photos and copies, without the pixels.
"""

import argparse
import io
import json
import random
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.measuring import machine, run_process
from levit_cli.data.inputs import walk
from levit_cli.embed.duplicates import WITHOUT_IMAGES, similar_groups
from levit_cli.embed.linkage import complete_linkage

ORIENTATION = 0x0112
LEVIT = str(Path(sys.executable).with_name("levit"))


def resized(image: Image.Image) -> bytes:
    """Return the image at 60 % of its size."""
    size = round(0.6 * image.width), round(0.6 * image.height)
    return as_jpeg(image.resize(size, Image.Resampling.LANCZOS), 90)


def recompressed(image: Image.Image) -> bytes:
    return as_jpeg(image, 50)


def cropped(image: Image.Image) -> bytes:
    """Return the image without 5 % of its width and of its height, taken from a random side of each."""
    width, height = round(0.95 * image.width), round(0.95 * image.height)
    left, top = random.choice([0, image.width - width]), random.choice([0, image.height - height])
    return as_jpeg(image.crop((left, top, left + width, top + height)), 90)


def rotated(image: Image.Image) -> bytes:
    """Return the image rotated by 90 degrees, with an EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return as_jpeg(image.transpose(Image.Transpose.ROTATE_90), 90, exif=exif)


def brightened(image: Image.Image) -> bytes:
    return as_jpeg(ImageEnhance.Brightness(image).enhance(1.25), 90)


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "resized": resized,
    "recompressed": recompressed,
    "cropped": cropped,
    "rotated": rotated,
    "brightened": brightened,
}


def as_jpeg(image: Image.Image, quality: int, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def groups_in(paths: list[str], model: str, *, index: bool, threshold: float | None) -> list[list[str]]:
    """Return the groups that the command finds."""
    with TemporaryDirectory() as folder:
        listed, vectors, output = (Path(folder, name) for name in ("list", "vectors.npz", "groups.jsonl"))
        listed.write_text("".join(f"{path}\n" for path in paths))
        inputs = ["--files-from", str(listed), "-m", model]
        if index:
            run_process([LEVIT, "embed", *inputs, "-o", str(vectors)])
            inputs = ["--index", str(vectors)]
        limit = ["--threshold", str(threshold)] if threshold else []
        run_process([LEVIT, "duplicates", *inputs, *limit, "-o", str(output)])
        found = [json.loads(line) for line in output.read_text().splitlines()]
    return [group["paths"] for group in found if group["kind"] != "error"]


def make_copies(photos: list[str], count: int, folder: Path, *, together: bool) -> dict[str, tuple[str, str]]:
    """Write copies, and return the photo and the kind of each."""
    made: dict[str, tuple[str, str]] = {}
    for number, (kind, make) in enumerate(KINDS.items()):
        for photo in photos[:count] if together else photos[number * count :][:count]:
            copy = folder / f"{len(made)}.jpg"
            with Image.open(photo) as image:
                copy.write_bytes(make(image.convert("RGB")))
            made[str(copy)] = (photo, kind)
    return made


def quality(options: argparse.Namespace) -> None:
    random.seed(options.seed)
    ignored = set(options.ignore.read_text().split("\n")) if options.ignore else set()
    photos = [item.path for item in walk(str(options.folder)) if item.path not in ignored]
    photos = random.sample(photos, min(options.photos, len(photos)))
    found = groups_in(photos, options.model, index=options.index, threshold=options.threshold)
    print(f"{len(found)} groups among the {len(photos)} photos alone; look at them:")
    for group in found:
        print("  ", *group)
    with TemporaryDirectory() as folder:
        made = make_copies(photos, options.copies, Path(folder), together=options.together)
        groups = groups_in([*photos, *made], options.model, index=options.index, threshold=options.threshold)
    report(groups, made)


def report(groups: list[list[str]], made: dict[str, tuple[str, str]]) -> None:
    """Print precision and recall."""
    photo_of = {path: photo for path, (photo, _) in made.items()}
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    right = sum(photo_of.get(one, one) == photo_of.get(other, other) for one, other in pairs)
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for one, other in pairs:
        beside[one].add(other)
        beside[other].add(one)
    hits = Counter(kind for path, (photo, kind) in made.items() if photo in connected(path, beside))
    total = Counter(kind for _, kind in made.values())
    print(f"precision {right / max(len(pairs), 1):.4f} ({right} of {len(pairs)} pairs)")
    for kind in total:
        print(f"recall {kind:<13} {hits[kind] / total[kind]:.3f}")
    print(f"recall {'all':<13} {sum(hits.values()) / len(made):.4f}")


def connected(path: str, beside: dict[str, set[str]]) -> set[str]:
    """Return the images in the groups of an image: a near group holds only the best image of an exact group."""
    direct = beside.get(path, set())
    return direct.union(*(beside[other] for other in direct))


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    units: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def cases(count: int, size: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield made vectors and their names."""
    generator = np.random.default_rng(0)
    unlike = unit(generator.standard_normal((count, size)) + 0.5)  # cosines around 0.2
    yield "unlike", unlike
    noise = generator.standard_normal((count - count // 2, size)) / size**0.5
    yield "pairs", np.concatenate([unlike[: count // 2], unit(unlike[: len(noise)] + 0.05 * noise)])
    yield "all equal", np.repeat(unlike[:1], count, axis=0)
    noise = generator.standard_normal((count, size)) / size**0.5
    yield "all similar", unit(unlike[:1] + 0.12 * noise)
    yield "all near the threshold", unit(unlike[:1] + 0.175 * noise)


def speed(options: argparse.Namespace) -> None:
    for name, vectors in cases(options.count, options.size):
        start, cpu_start = time.perf_counter(), time.process_time()
        groups = len([*similar_groups(vectors, None, WITHOUT_IMAGES)])
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name:<24} {wall_s:6.1f} s, {cpu_s:6.1f} s of CPU, {groups:6} groups, peak {peak_mb:.0f} MB", flush=True
        )


def linkage(options: argparse.Namespace) -> None:
    """Print, for each linkage, how many pairs in groups are right and how many copies are with their photo."""
    import levit_cli as levit

    random.seed(options.seed)
    photos = random.sample([item.path for item in walk(str(options.folder))], options.photos)
    with TemporaryDirectory() as folder:
        made = make_copies(photos, options.copies, Path(folder), together=True)
        paths = [*photos, *made]
        vectors = unit(levit.load(options.model).embed(paths))
    matrix = vectors @ vectors.T
    for threshold in (0.95, 0.96, 0.97, 0.98):
        for name, members in linkages(matrix, threshold):
            print(f"--- {name} linkage at {threshold}")
            report([[paths[number] for number in group] for group in members], made)


def linkages(matrix: NDArray[np.float32], threshold: float) -> Iterator[tuple[str, list[list[int]]]]:
    from scipy.cluster.hierarchy import fcluster
    from scipy.cluster.hierarchy import linkage as tree
    from scipy.spatial.distance import squareform

    yield "complete (levit)", [members for members, _ in complete_linkage(matrix, threshold)]
    distances = np.maximum(0, 1 - matrix.astype(np.float64))
    np.fill_diagonal(distances, 0)
    for method in ("average", "single"):
        labels = fcluster(tree(squareform((distances + distances.T) / 2), method), 1 - threshold, "distance")
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for number, label in enumerate(labels.tolist()):
            groups[label].append(number)
        yield method, [group for group in groups.values() if len(group) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "linkage"))
    parser.add_argument("folder", nargs="?", type=Path, help="folder of photos")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=100, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the photos and of the copies")
    parser.add_argument("--ignore", type=Path, help="file of paths that are not taken")
    parser.add_argument("--together", action="store_true", help="make the copies of all kinds from the same photos")
    parser.add_argument("--index", action="store_true", help="compare vectors only")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    print(machine())
    {"quality": quality, "speed": speed, "linkage": linkage}[options.what](options)


if __name__ == "__main__":
    main()
