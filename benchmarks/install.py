"""Time the installation of each extra in a new environment, and measure the size of the environment.

python -m benchmarks.install [--extras "" torch,plot all] [--python python3.12]

An empty name is the core install. The packages come from pip's index, so this needs the network. pip's cache is on by
default: a second run measures the installation without the downloads. ``--no-cache`` includes them.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import machine

ROOT = Path(__file__).parent.parent
MEGABYTE = 1 << 20


def install(extra: str, python: str, folder: Path, *, no_cache: bool) -> tuple[float, int, int]:
    """Create an environment, install, and return the seconds of pip, the number of packages and the bytes on disk."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    options = ["--quiet", "--disable-pip-version-check", *(["--no-cache-dir"] if no_cache else [])]
    start = time.perf_counter()
    subprocess.run([interpreter, "-m", "pip", "install", *options, target], check=True)
    seconds = time.perf_counter() - start
    subprocess.run([interpreter, "-m", "levit_cli", "--version"], check=True, stdout=subprocess.DEVNULL)
    packages = len({path.name for path in folder.glob("[lL]ib/**/site-packages/*.dist-info")})
    return seconds, packages, disk_usage(folder)


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files occupy on disk, like ``du``."""
    sizes = (path.lstat() for path in folder.rglob("*"))
    return sum(getattr(status, "st_blocks", -(-status.st_size // 512)) * 512 for status in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=["", "all"], help="extras, each installed on its own")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the new environments")
    parser.add_argument("--no-cache", action="store_true", help="download every package")
    options = parser.parse_args()
    print(machine())
    for extra in options.extras:
        with TemporaryDirectory() as folder:
            seconds, packages, size = install(extra, options.python, Path(folder), no_cache=options.no_cache)
        name = f"'.[{extra}]'" if extra else "."
        print(f"pip install {name:14} {seconds:6.1f} s  {packages:3} packages  {size / MEGABYTE:7,.0f} MB")


if __name__ == "__main__":
    main()
