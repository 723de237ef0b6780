"""``kill -9`` at random moments, then ``--resume``: ``make kills``, or ``python -m tests.hostile.kills``.

Each round begins from nothing or from a file in which some images failed, and is killed again and again until a run
comes through. What is left must be what an unbroken run leaves, byte for byte.
"""

import argparse
import random
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.binary import LEVIT, environment, levit
from tests.support.random_weights import write_folder
from tests.support.sample_images import write_images

IMAGES = 60
FORMATS = ("jsonl", "csv", "tsv")


def unbroken(command: list[str], folder: Path, suffix: str) -> tuple[bytes, float]:
    """What is to come of it, and the seconds it takes."""
    output = folder / f"unbroken.{suffix}"
    start = time.perf_counter()
    done = levit(*command, "-o", output, "--overwrite")
    assert done.returncode in (0, 1), done.stderr
    return output.read_bytes(), time.perf_counter() - start


def killed_within(command: list[str], seconds: float) -> bool:
    """Whether it had to be killed; else it came through."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as process:
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
    options = parser.parse_args()
    dice = random.Random(options.seed)
    kills = rounds = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_folder(folder / "model")
        photos = write_images(folder / "photos", IMAGES)
        while kills < options.kills:
            suffix = FORMATS[rounds % len(FORMATS)]
            output = folder / f"out.{suffix}"
            output.unlink(missing_ok=True)
            command = ["predict", "-m", str(model), str(folder / "photos"), "-b", "2", "-q"]
            if rounds % 2:
                half_done(command, photos, output, dice)
            expected, seconds = unbroken(command, folder, suffix)
            resuming = [LEVIT, *command, "-o", str(output), "--resume"]
            while kills < options.kills and killed_within(resuming, dice.uniform(0.3, 2.0) * seconds):
                kills += 1
            assert not killed_within(resuming, 600)
            assert output.read_bytes() == expected, f"round {rounds}: {output} is not what it should be"
            leftovers = {path.name for path in folder.iterdir()} - {"photos", "model"}
            assert not [name for name in leftovers if name.startswith(".")], leftovers
            rounds += 1
            print(f"{kills} kills, {rounds} rounds, all byte for byte", flush=True)


def half_done(command: list[str], photos: list[Path], output: Path, dice: random.Random) -> None:
    """Leave an output in which some images failed and some are missing, and right the images."""
    spoiled = dice.sample(photos, 12)
    hidden = [path for path in spoiled[6:] if path.exists()]
    contents = {path: path.read_bytes() for path in spoiled}
    for path in spoiled:
        path.write_bytes(b"")
    for path in hidden:
        path.unlink()
    assert levit(*command, "-o", output).returncode == 1
    for path, content in contents.items():
        path.write_bytes(content)


if __name__ == "__main__":
    main()
