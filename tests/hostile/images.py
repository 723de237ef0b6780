"""Classify damaged images in three ways and compare the records: ``python -m tests.hostile.images``.

The images have every format and mode that is read or that Pillow writes, with bits flipped and pieces cut out, doubled
or zeroed. Some more take much time or memory to decode. Each image must get one record, in order, within the time limit
and in bounded memory. The records must be the same on threads, with another batch size and in processes.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from levit_cli.data.skipped import SUFFIXES
from levit_cli.images.jpeg import SCAN, segments
from levit_cli.images.plugins import PLUGINS
from tests.support.binary import LEVIT, environment
from tests.support.format_files import FOLDER, files_of
from tests.support.random_weights import write_folder
from tests.support.sample_images import sample_image

LIMIT_S = 20.0
MAX_MEMORY = 2 << 30
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
VARIANTS: dict[str, list[dict[str, object]]] = {
    "JPEG": [{}, {"progressive": True}, {"restart_marker_blocks": 2}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_adobe_deflate"}],
    "PNG": [{}, {"compress_level": 0}],
    "WEBP": [{}, {"lossless": True}],
}


def whole_images() -> dict[str, bytes]:
    """Return small valid images in all formats and modes, by name."""
    Image.init()
    found = {}
    for format in sorted(Image.SAVE):
        for mode in MODES:
            for number, options in enumerate(VARIANTS.get(format, [{}])):
                file = BytesIO()
                try:
                    in_mode(mode).save(file, format, **options)
                except Exception:  # a format does not take every mode
                    continue
                found[f"{format} {mode} {number}".replace(";", "")] = file.getvalue()
    return {**found, **other_images()}


def other_images() -> dict[str, bytes]:
    """Return images in formats and modes that Pillow does not write."""
    written = {f"file {path.name}": path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in SUFFIXES}
    return written | {f"made {name}": content for name, content in files_of(sample_image(36, 28)).items()}


def in_mode(mode: str) -> Image.Image:
    image = sample_image(60, 44, seed=3)
    if mode in ("I", "I;16", "F"):
        values = np.asarray(image.convert("L")).astype(np.float32)
        scale, kind = {"I": (200, np.int32), "F": (1 / 255, np.float32), "I;16": (257, np.uint16)}[mode]
        return Image.fromarray((values * scale).astype(kind))
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with one of several kinds of damage."""
    data = bytearray(content)
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    how = rng.integers(0, 6)
    if how == 0:
        return bytes(data[:end])
    if how == 1:
        return bytes(data[:start] + data[end:])
    if how == 2:
        return bytes(data[:end] + data[start:])
    if how == 3:
        return bytes(data[:start] + bytes(end - start) + data[end:])
    reach = len(data) if how == 4 else min(len(data), 100)
    for bit in rng.integers(0, 8 * reach, rng.integers(1, 30)).tolist():
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def scan_bomb() -> bytes:
    """Return a progressive JPEG of 1 MB that takes minutes to decode: it repeats a scan over many pixels."""
    file = BytesIO()
    Image.new("L", (16_000, 11_000), 100).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = [segment for segment in segments(content) if segment.marker == SCAN][-1]
    return content[:-2] + content[last.start : -2] * 4000 + content[-2:]


def write_hostile(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = whole_images()
    decoded = sorted(name for name in whole if name.startswith((*PLUGINS, "PPM", "file", "made")))
    for number in range(count):
        names = sorted(whole) if number % 5 == 0 else decoded  # mostly formats that levit reads
        name = names[int(rng.integers(0, len(names)))]
        (folder / f"{number:04d} {name}.jpg").write_bytes(damaged(whole[name], rng))
    (folder / "0001 scan bomb.jpg").write_bytes(scan_bomb())
    for size in ((1, 60_000), (60_000, 1), (13_000, 13_000), (40_000, 4_000)):
        Image.new("1", size).save(folder / f"{count:04d} {size[0]} x {size[1]}.png")


def classified(model: Path, folder: Path, *options: str) -> tuple[bytes, float, int]:
    """Run ``levit predict``. Returns its records, the seconds it took and its peak memory in bytes."""
    limit = ("--timeout", str(LIMIT_S), "-f", "jsonl", "-k", "2", "-q")
    with tempfile.TemporaryFile() as stdout:
        start = time.perf_counter()
        command = [LEVIT, "predict", "-m", str(model), str(folder), *limit, *options]
        process = subprocess.Popen(command, stdout=stdout, env=environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode in (0, 1), f"exit code {process.returncode} of {' '.join(command)}"
        stdout.seek(0)
        return stdout.read(), time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        write_hostile(folder, options.count, options.seed)
        model = write_folder(Path(temporary, "model"))
        paths = sorted(map(str, folder.iterdir()), key=os.fsencode)
        first: bytes | None = None
        for how in ([], ["-b", "3"], ["--isolate"]):
            records, seconds, peak = classified(model, folder, *how)
            found = [json.loads(line) for line in records.splitlines()]
            kinds = Counter(record.get("error", {}).get("kind", "ok") for record in found)
            print(f"{' '.join(how) or 'threads':<10} {seconds:6.1f} s  {peak >> 20:5,} MB  {dict(kinds.most_common())}")
            assert [record["path"] for record in found] == paths
            assert kinds["timeout"] == 1, "only the scan bomb times out"
            assert kinds["decoder_crashed"] == 0
            assert peak < MAX_MEMORY
            assert first in (None, records), "the records differ from the first run's"
            first = records
    print(f"{len(paths)} images, the same records each time")


if __name__ == "__main__":
    main()
