"""Kill ``levit predict --resume`` at random moments: ``make kills``, or ``python -m tests.hostile.kills``.

``--source tar`` reads the images from an archive (``make kills-archives``), ``--source s3`` from an S3 server on
127.0.0.1 (``make kills-remote``).

A round starts without an output, or with one in which some images failed. It is killed repeatedly until a run finishes.
The output must then equal that of an uninterrupted run, byte for byte.
"""

import argparse
import atexit
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from levit_cli.system.extras import missing_package
from tests.support.archives import tar_of_folder, zip_of_folder
from tests.support.binary import LEVIT, environment, levit
from tests.support.fake_s3 import FakeS3
from tests.support.random_weights import write_folder
from tests.support.sample_images import write_images

IMAGES = 60
FORMATS = ("jsonl", "csv", "tsv", *["parquet"] * (missing_package("parquet") is None))
# Each returns the argument of levit for the photos of a folder.
SOURCES: dict[str, Callable[[Path], str | Path]] = {
    "folder": lambda folder: folder,
    "s3": lambda folder: in_bucket(folder),
    "tar": lambda folder: tar_of_folder(folder.with_name("photos.tar"), folder),
    "tar.gz": lambda folder: tar_of_folder(folder.with_name("photos.tar.gz"), folder),
    "zip": lambda folder: zip_of_folder(folder.with_name("photos.zip"), folder),
}


def in_bucket(folder: Path) -> str:
    """Serve the photos as objects, from a server that is started at the first call."""
    server = fake_s3()
    server.objects.clear()
    server.add("bucket", {path.name: path.read_bytes() for path in folder.iterdir()})
    return "s3://bucket/"


@cache
def fake_s3() -> FakeS3:
    server = FakeS3()
    server.start()
    server.page_size = 7
    atexit.register(server.stop)
    os.environ |= server.environment()
    return server


def uninterrupted(command: list[str], folder: Path, suffix: str) -> tuple[bytes, float]:
    """Return the output of an uninterrupted run and the seconds it takes."""
    output = folder / f"uninterrupted.{suffix}"
    start = time.perf_counter()
    done = levit(*command, "-o", output, "--overwrite")
    assert done.returncode in (0, 1), done.stderr
    return output.read_bytes(), time.perf_counter() - start


def killed_within(command: list[str], seconds: float, env: Mapping[str, str] | None = None) -> bool:
    """Run a command and kill it after some seconds. Returns whether it was killed before it finished."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env or environment()) as process:
        try:
            _, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        assert process.returncode in (0, 1), stderr.decode()
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=SOURCES, default="folder", help="how the images are stored")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills = rounds = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_folder(folder / "model")
        photos = write_images(folder / "photos", IMAGES)
        pack = partial(SOURCES[options.source], folder / "photos")
        while kills < options.kills:
            suffix = FORMATS[rounds % len(FORMATS)]
            output = folder / f"out.{suffix}"
            output.unlink(missing_ok=True)
            command = ["predict", "-m", str(model), str(pack()), "-b", "2", "-q"]
            if rounds % 2:
                half_done(command, photos, output, rng, pack)
            expected, seconds = uninterrupted(command, folder, suffix)
            resuming = [LEVIT, *command, "-o", str(output), "--resume"]
            while kills < options.kills and killed_within(resuming, rng.uniform(0.3, 2.0) * seconds):
                kills += 1
            assert not killed_within(resuming, 600)
            assert output.read_bytes() == expected, f"round {rounds}: {output} differs from an uninterrupted run"
            hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
            assert not hidden, hidden
            rounds += 1
            print(f"{kills} kills, {rounds} rounds, all outputs equal", flush=True)


def half_done(
    command: list[str], photos: list[Path], output: Path, rng: random.Random, pack: Callable[[], str | Path]
) -> None:
    """Write an output in which some images failed and some are missing, then restore the images.

    Args:
        pack: stores the images in the source that the command reads.
    """
    broken = rng.sample(photos, 12)
    missing = [path for path in broken[6:] if path.exists()]
    contents = {path: path.read_bytes() for path in broken}
    for path in broken:
        path.write_bytes(b"")
    for path in missing:
        path.unlink()
    pack()
    assert levit(*command, "-o", output).returncode == 1
    for path, content in contents.items():
        path.write_bytes(content)
    pack()


if __name__ == "__main__":
    main()
