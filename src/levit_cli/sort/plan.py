"""Plan what becomes of each result: its folder, a free name, and the sidecars that go along.

Names are chosen by what the sorted folder holds and what was planned before, so a run that was killed and started
again plans the same. A name counts as taken if a file system that ignores case would not accept it, so that the sorted
folder can be copied anywhere.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from levit_cli.errors import reason_of
from levit_cli.predict.results import not_a_local_file
from levit_cli.sort.folders import UNCERTAIN, ClassKey, Folders, folded
from levit_cli.sort.journal import Action, History, Step
from levit_cli.sort.sources import SourceFolders

MAX_NAME_BYTES = 255


class Item(NamedTuple):
    """A result that is to be sorted.

    Args:
        path: as recorded.
        is_certain: whether the probability reaches the threshold.
    """

    path: str
    label: str
    class_index: int
    prob: float
    is_certain: bool


class NotSortedError(Exception):
    """A file cannot be sorted; the message says why."""


class AlreadySortedError(Exception):
    """There is nothing to do for a file; the message says why."""


class Planned(NamedTuple):
    """An image that is to be sorted, and the steps for it and its sidecars.

    Args:
        folder: name of its folder in the sorted folder.
        key: the class of the folder; None for uncertain images.
        steps: that of the image first, unless an earlier run took it.
    """

    item: Item
    folder: str
    key: ClassKey | None
    steps: list[Step]


@dataclass(frozen=True)
class Source:
    """A file that is to be sorted.

    Args:
        path: absolute.
        status: of the file, or of the symbolic link that is moved.
        link: the text of that link.
    """

    path: str
    status: os.stat_result
    link: str | None = None


class Planner:
    """Plans steps. It changes nothing.

    Args:
        folder: the sorted folder, with symbolic links resolved; it need not exist.
        history: what the journal says.
        unresolved: why steps of an earlier run are still pending, by source.
        classified_ns: when the results were last written. Files that were changed later are not sorted; None sorts
            them, too.
        no_sidecars: paths of files that are not sidecars: all images that are sorted, and the results.
    """

    def __init__(
        self, folder: Path, history: History, folders: Folders, action: Action, sources: SourceFolders, *,
        unresolved: dict[str, str], classified_ns: int | None, no_sidecars: set[str],
    ) -> None:  # fmt: skip
        self._folder, self._folders, self._action, self._sources = folder, folders, action, sources
        self._unresolved, self._classified_ns, self._no_sidecars = unresolved, classified_ns, no_sidecars
        self._now_ns = time.time_ns()
        self._earlier = _EarlierSteps(folder, history)
        self._next_number = len(history.steps)
        self._names: dict[str, _Names] = {}
        self._seen: set[str] = set()

    def plan(self, item: Item) -> Planned:
        """Return the steps for an image and its sidecars.

        Raises:
            AlreadySortedError, NotSortedError: there are none.
        """
        if kind := not_a_local_file(item.path):
            raise NotSortedError(f"it is {kind}, not a file")
        path = self._sources.absolute(item.path)
        self._require_first(path)
        key = self._folders.key_of(item.label, item.class_index) if item.is_certain else None
        folder = self._folders.name_of(key) if key else UNCERTAIN
        source = self._open(path)
        if earlier := self._earlier.of_image(path, source, self._action, folder):
            return Planned(item, folder, key, self._missing_sidecars(earlier))
        if source is None:
            raise NotSortedError("there is no such file any more")
        self._require_sortable(source, folder)
        return Planned(item, folder, key, self._steps(source, folder))

    def plan_again(self, planned: Planned) -> Planned:
        """Return the steps with another name, because another program took the name meanwhile.

        Raises:
            NotSortedError: the file is gone by now.
        """
        path = self._sources.absolute(planned.item.path)
        self._names.pop(planned.folder, None)  # read again
        source = self._open(path)
        if source is None:
            raise NotSortedError("there is no such file any more")
        return planned._replace(steps=self._steps(source, planned.folder))

    def _require_first(self, path: str) -> None:
        if path in self._seen:
            raise AlreadySortedError("listed more than once")
        self._seen.add(path)
        if path in self._unresolved:
            raise NotSortedError(f"an earlier run could not finish it: {self._unresolved[path]}")

    def _open(self, path: str) -> Source | None:
        """Return a file; None if there is none.

        Raises:
            NotSortedError: it is not a regular file, or cannot be looked at.
        """
        try:
            status, own = os.stat(path), os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise NotSortedError("it is not a regular file")
            if self._action == "move" and stat.S_ISLNK(own.st_mode):
                return Source(path, own, os.readlink(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise NotSortedError(reason_of(error)) from error
        return Source(path, status)

    def _require_sortable(self, source: Source, folder: str) -> None:
        parent = os.path.dirname(source.path)
        if parent == os.path.join(self._folder, folder):
            raise AlreadySortedError("already in its folder")
        if self._classified_ns is not None and self._classified_ns < source.status.st_mtime_ns <= self._now_ns:
            raise NotSortedError("it was changed after it was classified")
        if self._action == "move" and not self._sources.is_writable(parent):
            raise NotSortedError("its folder is read-only, so it cannot be moved")

    def _steps(self, source: Source, folder: str) -> list[Step]:
        """Return the steps for an image and its sidecars, under the first number for which all names are free."""
        stem, suffix = os.path.splitext(os.path.basename(source.path))
        sidecars = [*self._sidecars(source.path)]
        endings = [suffix, *(ending for _, ending, _ in sidecars)]
        stem = self._names_in(folder).reserve(stem, endings)
        steps = [self._step(source, self._action, os.path.join(folder, stem + suffix))]
        for sidecar, ending, action in sidecars:
            steps.append(self._step(sidecar, action, os.path.join(folder, stem + ending), source.path))
        return steps

    def _missing_sidecars(self, earlier: Step) -> list[Step]:
        """Return the steps for sidecars of an image that an earlier run sorted without them.

        Raises:
            AlreadySortedError: there are none.
            NotSortedError: the name of one is taken.
        """
        folder, name = os.path.split(earlier.target)
        stem = os.path.splitext(name)[0]
        steps = []
        for sidecar, ending, action in self._sidecars(earlier.source):
            target = os.path.join(folder, stem + ending)
            if self._earlier.has(sidecar.path, target):
                continue
            if not self._names_in(folder).take(stem + ending):
                raise NotSortedError(f"its sidecar {sidecar.path} cannot go along: {target} exists")
            steps.append(self._step(sidecar, action, target, earlier.source))
        if not steps:
            raise AlreadySortedError("already sorted")
        return steps

    def _sidecars(self, image: str) -> Iterator[tuple[Source, str, Action]]:
        """Yield the sidecars of an image: the file, what follows the stem in its name, and the action.

        One that other files share is copied when the image is moved.
        """
        try:
            sidecars = [*self._sources.sidecars(image, self._earlier.moved_from(image))]
        except OSError as error:
            raise NotSortedError(f"its folder cannot be searched for sidecars: {reason_of(error)}") from error
        for path, ending, is_shared in sidecars:
            source = None if path in self._no_sidecars else self._open(path)
            if source is not None:
                yield source, ending, "copy" if is_shared and self._action == "move" else self._action

    def _step(self, source: Source, action: Action, target: str, image: str | None = None) -> Step:
        self._next_number += 1
        status, link = source.status, source.link
        if link is not None and action != "move":  # a shared sidecar that is a link: its content is copied
            status, link = _status(source.path), None
        return Step(
            self._next_number - 1, action, source.path, target,
            status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino, link, image,
        )  # fmt: skip

    def _names_in(self, folder: str) -> "_Names":
        if folder not in self._names:
            path = self._folder / folder
            self._names[folder] = _Names(os.listdir(path) if path.is_dir() else ())
        return self._names[folder]


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise NotSortedError(reason_of(error)) from error


class _Names:
    """The names in a folder, those that exist and those that are planned."""

    def __init__(self, existing: Iterable[str]) -> None:
        self._taken = {folded(name) for name in existing}
        self._first_free: dict[str, int] = {}  # by the folded name; all smaller numbers are taken

    def take(self, name: str) -> bool:
        """Reserve a name; return whether it was free."""
        is_free = folded(name) not in self._taken
        self._taken.add(folded(name))
        return is_free

    def reserve(self, stem: str, endings: list[str]) -> str:
        """Reserve names that begin with the stem or a numbered stem, one per ending; return this stem."""
        name = folded(stem + endings[0])
        first = self._count_up(stem, endings[:1], self._first_free.get(name, 1))
        self._first_free[name] = first
        number = self._count_up(stem, endings, first)
        stem = numbered(stem, number, endings)
        self._taken.update(folded(stem + ending) for ending in endings)
        return stem

    def _count_up(self, stem: str, endings: list[str], number: int) -> int:
        while any(folded(numbered(stem, number, endings) + ending) in self._taken for ending in endings):
            number += 1
        return number


def numbered(stem: str, number: int, endings: list[str]) -> str:
    """Return the stem with a number from 2, such as `` (2)``, cut so that with each ending it is a valid name."""
    if number == 1:
        return stem
    tail = f" ({number})"
    room = MAX_NAME_BYTES - len(tail) - max(len(os.fsencode(ending)) for ending in endings)
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + tail


class _EarlierSteps:
    """The steps of earlier runs, which are not undone.

    Args:
        folder: the sorted folder.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self._folder = folder
        self._by_source: dict[str, list[Step]] = {}
        self._moved: dict[tuple[str, str], set[str]] = {}  # names by their folder and stem
        for step in history.in_state("done"):
            self._by_source.setdefault(step.source, []).append(step)
            if step.action == "move":
                parent, name = os.path.split(step.source)
                self._moved.setdefault((parent, os.path.splitext(name)[0]), set()).add(name)

    def of_image(self, path: str, source: Source | None, action: Action, folder: str) -> Step | None:
        """Return the step that sorted an image as this run would; None if there is none.

        Args:
            source: the image; None if it is gone, as after a move.
            folder: that this run sorts the image into.
        """
        for step in reversed(self._by_source.get(path, [])):
            if step.image is None and self._is_as_planned(step, source, action, folder):
                return step
        return None

    def _is_as_planned(self, step: Step, source: Source | None, action: Action, folder: str) -> bool:
        if source is None:
            return step.action == "move"
        is_alike = (step.action, os.path.dirname(step.target)) == (action, folder)
        return is_alike and IS_SAME[action](step, source.status) and os.path.lexists(self._folder / step.target)

    def has(self, path: str, target: str) -> bool:
        """Return whether a file was sorted to a new path and is still there."""
        steps = self._by_source.get(path, [])
        return any(step.target == target for step in steps) and os.path.lexists(self._folder / target)

    def moved_from(self, image: str) -> set[str]:
        """Return the names of files with the stem of an image that were moved out of its folder."""
        parent, name = os.path.split(image)
        return self._moved.get((parent, os.path.splitext(name)[0]), set())


def _is_copied(step: Step, status: os.stat_result) -> bool:
    return (step.size, step.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _is_linked(step: Step, status: os.stat_result) -> bool:
    return (step.device, step.inode) == (status.st_dev, status.st_ino)


# Whether the file that a step took is still the one at this path. A file that was moved there later is another one.
IS_SAME: dict[Action, Callable[[Step, os.stat_result], bool]] = {
    "copy": _is_copied,
    "link": _is_linked,
    "symlink": lambda *_: True,
    "move": lambda *_: False,
}
