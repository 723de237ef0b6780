"""Kill ``levit sort`` and ``levit sort --undo`` at random moments: ``make kills-sort``.

After each kill nothing is lost, and no file with a final name is incomplete. In half of the rounds the same command is
killed again before it may finish. Then it must give the final state of an uninterrupted run, and ``--undo``, which is
killed too, the original one: names, contents, times, modes, links and, except for copies, the numbers of the files.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from importlib import import_module
from pathlib import Path

from tests.support.fork_server import become_levit
from tests.support.sorting import Photos, contents, tree, write_photos

MODES = ("copy", "move", "link", "symlink")
IMAGES = 60
BYTES = 200_000


def make(folder: Path) -> Photos:
    """Write images of several folders with equal names, every third with a sidecar."""
    photos = write_photos(folder)
    content = os.urandom(BYTES)
    for number in range(IMAGES):
        name = f"{number % 5}/image {number // 5}.jpg"
        photos.add(name, f"class {number % 4}", content=number.to_bytes(4, "big") + content)
        if number % 3 == 0:
            photos.add(f"{name}.xmp")
    return photos


class Case:
    """A folder of photos, and its trees before and after sorting."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.photos = make(folder)
        self.sort = ["sort", str(self.photos.results), "--to", str(self.photos.sorted), "--mode", mode, "-q"]
        self.undo = ["sort", "--undo", str(self.photos.sorted), "-q"]
        self.original, self.contents = tree(self.photos.photos, inodes=True), contents(self.photos.photos)
        self.seconds = {"sort": self.timed(self.sort)}
        self.final = tree(folder, link_times=False)
        self.seconds["undo"] = self.timed(self.undo)

    def timed(self, command: list[str]) -> float:
        start = time.perf_counter()
        assert run(command) == 0, command
        return time.perf_counter() - start

    def complete(self, command: list[str], seconds: float, rng: random.Random, kills: int) -> int:
        """Run a command to its end, and kill it up to ``kills`` times before; return how often it was killed."""
        killed = 0
        while killed < kills and run(command, rng.uniform(0, 1.1) * seconds) != 0:
            killed += 1
            self.check_nothing_lost()
        if "--undo" not in command or self.photos.sorted.exists():
            assert run(command) == 0
        return killed

    def check_nothing_lost(self) -> None:
        found = contents(self.photos.folder)
        assert found >= self.contents, "a file is lost"
        for path in self.photos.sorted.rglob("*"):
            if path.is_file() and not path.name.startswith(".levit-"):
                assert path.read_bytes() in self.contents, f"{path} is incomplete"


def run(command: list[str], seconds: float = 0) -> int:
    """Run ``levit`` in a forked process; with ``seconds``, kill it then. Returns the exit code, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        null = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
        become_levit(arguments=command, cwd=os.getcwd(), env=dict(os.environ), descriptors=[*null, os.dup(2)])
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_round(folder: Path, mode: str, rng: random.Random) -> int:
    """Sort and undo with kills, compare the trees, and return the number of kills."""
    case = Case(folder, mode)
    kills = case.complete(case.sort, case.seconds["sort"], rng, rng.randint(1, 2))
    found = tree(folder, link_times=False)
    assert found == case.final, found.items() ^ case.final.items()
    if mode in ("move", "link"):
        assert {*inodes(case.original)} <= {*inodes(tree(folder, inodes=True))}
    kills += case.complete(case.undo, case.seconds["undo"], rng, rng.randint(1, 2))
    found = tree(case.photos.photos, inodes=True)
    assert found == case.original, found.items() ^ case.original.items()
    assert sorted(path.name for path in folder.iterdir()) == ["photos", "results.jsonl"]
    return kills


def inodes(state: dict[str, tuple[object, ...]]) -> list[object]:
    """Return the numbers of the regular files of a tree that are not shared sidecars."""
    return [entry[3] for entry in state.values() if len(entry) == 4 and isinstance(entry[0], bytes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for module in ("levit_cli.cli", "levit_cli.sort.run"):
        import_module(module)
    rng = random.Random(options.seed)
    kills = rounds = 0
    while kills < options.kills:
        with tempfile.TemporaryDirectory() as temporary:
            kills += kill_round(Path(temporary) / "work", MODES[rounds % len(MODES)], rng)
        rounds += 1
        print(f"{kills} kills, {rounds} rounds, nothing lost, all trees equal", flush=True)


if __name__ == "__main__":
    main()
