"""The journal of a sorted folder: every step, written and synced before it is taken, and what became of it.

The journal is the file ``.levit-sort.jsonl`` in the sorted folder. Each line is a JSON object:

- ``{"levit_sort": 1, "made": true}``, the first line: whether the sorted folder itself was made;
- ``{"folder": "crane", "label": …, "class_index": …, "made": true}``: the folder of a class;
- ``{"step": 7, "action": "move", …}``: a step that is about to be taken;
- ``{"done": [7, …]}``, ``{"cancelled": […]}``, ``{"undone": […]}``: what became of steps.

A step without such a line is *pending*: the process was killed, and the files tell whether the step was taken. Names
are stored as text in which bytes that are not UTF-8 are surrogates. The journal is locked while a run uses it.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from levit_cli.choices import SortMode
from levit_cli.errors import OutputError, UsageError
from levit_cli.sort.folders import ClassKey
from levit_cli.system import locking
from levit_cli.system.atomic import sync_folder, temporary_name, writing
from levit_cli.system.new_folder import new_folder
from levit_cli.system.output import OutputFile

NAME = ".levit-sort.jsonl"
VERSION = 1
NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}
NOT_TOUCHED = "nothing was touched"

Action = SortMode
State = Literal["pending", "done", "cancelled", "undone"]
MARKS: tuple[State, ...] = ("done", "cancelled", "undone")


@dataclass(frozen=True, slots=True)
class Step:
    """One file that is copied, moved or linked.

    Args:
        number: of the step in the journal.
        source: the absolute path of the file.
        target: its new path, relative to the sorted folder.
        size: of the source in bytes, before the step.
        mtime_ns: of the source.
        device, inode: of the source.
        link: the text of the source, if it is a symbolic link that is moved.
        image: for a sidecar, the source of its image.
    """

    number: int
    action: Action
    source: str
    target: str
    size: int
    mtime_ns: int
    device: int
    inode: int
    link: str | None = None
    image: str | None = None


@dataclass
class History:
    """What a journal says.

    Attributes:
        made: whether the sorted folder was made by the first run.
        folders: name of the folder of each class.
        made_folders: names of the folders that were made, in this order.
        steps, states: by the number of the step.
    """

    made: bool = False
    folders: dict[ClassKey, str] = field(default_factory=dict)
    made_folders: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def in_state(self, state: State) -> Iterator[Step]:
        """Yield the steps in a state, in their order."""
        return (step for step, current in zip(self.steps, self.states, strict=True) if current == state)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of the journal.

        Raises:
            ValueError, LookupError, TypeError: it is none.
        """
        if "step" in line:
            step = Step(line.pop("step"), **{**line, **{key: _decoded(line.get(key)) for key in NAMES}})
            if step.number != len(self.steps):
                raise ValueError(f"step {step.number} does not follow step {len(self.steps) - 1}")
            self.steps.append(step)
            self.states.append("pending")
        elif "folder" in line:
            self._add_folder(line["folder"], line["label"], line["class_index"], made=line["made"])
        else:
            ((state, numbers),) = line.items()
            for number in numbers:
                self.states[number] = MARKS[MARKS.index(state)]

    def _add_folder(self, name: str, label: str | None, class_index: int | None, *, made: bool) -> None:
        if label is not None:
            self.folders[label, class_index] = name
        if made:
            self.made_folders.append(name)


NAMES = ("source", "target", "link", "image")


def _encoded(name: str | None) -> str | None:
    """Return a name as text that does not depend on the locale."""
    return None if name is None else os.fsencode(name).decode("utf-8", "surrogateescape")


def _decoded(text: str | None) -> str | None:
    return None if text is None else os.fsdecode(text.encode("utf-8", "surrogateescape"))


def line_of(step: Step) -> dict[str, Any]:
    """Return the line of a step."""
    content = asdict(step)
    return {"step": content.pop("number"), **content, **{key: _encoded(content[key]) for key in NAMES}}


class Journal:
    """A journal that is open and locked.

    Attributes:
        folder: the sorted folder.
        history: what the journal says, including the lines that were added.

    Raises (each method):
        OutputError: the journal cannot be written.
    """

    def __init__(self, folder: Path, file: OutputFile) -> None:
        self.folder, self._file = folder, file
        with os.fdopen(os.dup(file.descriptor), "rb") as content:
            content.seek(0)
            self.history, end = _parsed(folder, content)
        self._is_new = not end
        if end:
            file.continue_at(end)

    def add(self, lines: Iterable[dict[str, Any]], *, sync: bool = False) -> None:
        """Append lines, and write them to the disk with ``sync``."""
        encoded = [json.dumps(line) for line in lines]
        if not encoded and not sync:
            return
        if self._is_new:
            encoded.insert(0, json.dumps(_header(made=False)))
        self._file.write("".join(f"{line}\n" for line in encoded).encode())
        for line in encoded[self._is_new :]:
            self.history.add(json.loads(line))
        if sync:
            with writing(self._file.name):
                os.fsync(self._file.descriptor)
        if self._is_new:
            sync_folder(self.folder)
        self._is_new = False

    def mark(self, **numbers: list[int]) -> None:
        """Record what became of steps."""
        self.add({state: chosen} for state, chosen in numbers.items() if chosen)

    def remove(self) -> None:
        """Remove the journal, and the sorted folder if it was made and is empty.

        The journal is moved out of the folder first: a killed run can then be completed by ``finish_removing``.
        """
        moved = _moved_journal(self.folder)
        if not self.history.made:
            self._file.remove()
            return
        if locking.posix is None:
            self._file.remove()
            moved = self.folder / NAME
        else:
            with writing(self.folder):
                os.replace(self._file.path, moved)
        _remove_if_empty(self.folder)
        moved.unlink(missing_ok=True)


def _header(*, made: bool) -> dict[str, Any]:
    return {"levit_sort": VERSION, "made": made}


def _remove_if_empty(folder: Path) -> None:
    """Remove the sorted folder, unless the user put something into it."""
    with writing(folder):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in NOT_EMPTY:
                raise


def _moved_journal(folder: Path) -> Path:
    return folder.with_name(temporary_name(folder.name))


def finish_removing(folder: Path) -> bool:
    """Complete the removal of a sorted folder that was killed at its end; return whether there was one."""
    moved = _moved_journal(folder)
    if not moved.is_file() or (folder / NAME).exists():
        return False
    _remove_if_empty(folder)
    with writing(folder):
        moved.unlink(missing_ok=True)
    return True


def remove_unfinished(folder: Path) -> bool:
    """Remove what a run left that was killed while it made the sorted folder; return whether there was something."""
    temporary = _moved_journal(folder)
    if os.path.lexists(folder) or not temporary.is_dir():
        return False
    with writing(folder):
        (temporary / NAME).unlink(missing_ok=True)
        temporary.rmdir()
    return True


@contextmanager
def open_journal(folder: Path, *, create: bool) -> Iterator[Journal]:
    """Open and lock the journal of a sorted folder until the end of the block.

    Args:
        create: make the folder and the journal if they do not exist.

    Raises:
        UsageError: the folder has no journal, or what has its name is none.
        OutputError: another run has locked it, or it cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    finish_removing(folder)
    if create and not os.path.lexists(folder):
        with new_folder(folder) as temporary, writing(folder):
            (temporary / NAME).write_text(json.dumps(_header(made=True)) + "\n", encoding="utf-8")
    _require_folder(folder)
    if not create and not (folder / NAME).exists():
        raise UsageError(f"There is nothing to undo in {folder}", why=f"it has no {NAME}")
    with OutputFile(folder / NAME, may_exist=True) as file:
        yield Journal(folder, file)


def read_history(folder: Path) -> History:
    """Return what the journal of a folder says, without changing it; an empty history if there is none.

    Raises:
        UsageError, OutputError: as ``open_journal``.
    """
    if not os.path.lexists(folder):
        return History(made=True)
    _require_folder(folder)
    path = folder / NAME
    if locking.is_locked(path):
        raise OutputError(f"Cannot sort into {folder}", why=locking.IN_USE, hint="wait until it ends")
    try:
        with path.open("rb") as file:
            return _parsed(folder, file)[0]
    except FileNotFoundError:
        return History()


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        why = "it is not a folder" if os.path.lexists(folder) else "it does not exist"
        raise UsageError(f"Cannot use the folder {folder}", why=why, hint=NOT_TOUCHED)


def _parsed(folder: Path, file: BinaryIO) -> tuple[History, int]:
    """Return what a journal says, and the end of its last complete line. A killed run may leave an incomplete one."""
    history, end = History(), 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            content = json.loads(line)
            if number == 1:
                history.made = _made_of(content)
            else:
                history.add(content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"line {number} is not one of a journal of levit sort: {error}"
            raise UsageError(f"Cannot read {folder / NAME}", why=why, hint=NOT_TOUCHED) from error
        end += len(line)
    return history, end


def _made_of(header: Any) -> bool:
    if header["levit_sort"] != VERSION:
        raise ValueError("another version of levit wrote it")
    return bool(header["made"])
