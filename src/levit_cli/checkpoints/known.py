"""Remember weight files that were read and checked, so that a cold start need not read them again.

If the compiled graph is cached too, a prediction needs only the config and the format of a checkpoint, not its weights.
A file is recognized by its path, its number in the file system, its size and the time of its last change in
nanoseconds. Programs cannot set that time. A file that changed less than ``SETTLED_S`` ago is not remembered,
because a second change within the resolution of the clock would not be seen. On Windows the time of the last change is
not available, so nothing is remembered there.
"""

import os
import time
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from levit_cli import __version__
from levit_cli.checkpoints.detect import StateDictConversion
from levit_cli.choices import Dtype
from levit_cli.errors import IS_WINDOWS, RefusedError
from levit_cli.model.config import LevitConfig
from levit_cli.system.cache import FolderCache

SETTLED_S = 2.0
Array = NDArray[Any]
Mark = tuple[str, int, int, int, int, int]  # path, device, number, size, times of the last changes


class StateOnDemand(Mapping[str, Array]):
    """The arrays of a state dict, which are read when one of them is needed.

    Args:
        read: returns the state dict; called once.
    """

    def __init__(self, read: Callable[[], Mapping[str, Array]]) -> None:
        self._read = read

    @cached_property
    def _state(self) -> Mapping[str, Array]:
        return self._read()

    def __getitem__(self, name: str) -> Array:
        return self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


@dataclass(frozen=True)
class Network:
    """The network of a checkpoint: its converted state dict and what is reported about the files.

    Args:
        dtype: floating-point type of the stored weights.
        notes: remarks about the files.
        sha256: hash of the files if it is known, else empty.
    """

    conversion: StateDictConversion
    dtype: Dtype
    notes: tuple[str, ...] = ()
    sha256: str = ""


class KnownWeights:
    """Facts about weight files that were read before, kept in a cache.

    Args:
        context: on what the conversion depends besides the files.
    """

    def __init__(self, cache: FolderCache, files: Sequence[Path], context: object) -> None:
        self._cache, self._files = cache, files
        self._marks = _marks(files)
        self._key = repr((__version__, self._marks, context)) if _can_be_recognized(self._marks) else ""

    def require_unchanged(self) -> None:
        """Check that the files are still those that were there at first.

        Otherwise a graph of the old weights could be cached under the hash of the new ones, or the reverse.

        Raises:
            RefusedError: a file was changed or replaced.
        """
        if _marks(self._files) != self._marks:
            raise RefusedError(f"{self._files[0]} was changed while it was read", hint="run the command again")

    def recall(self, read: Callable[[], Network]) -> Network | None:
        """Return the network of the files, with a state that ``read`` reads on demand; None if they are not known."""
        content = self._cache.load(self._key) if self._key else None
        if content is None:
            return None
        try:
            facts = literal_eval(bytes(content).decode())
            config = LevitConfig(**facts["config"])
            conversion = StateDictConversion(StateOnDemand(lambda: self._state(read)), config, *facts["conversion"])
            return Network(conversion, facts["dtype"], facts["notes"], facts["sha256"])
        except (ValueError, SyntaxError, KeyError, TypeError):
            return None

    def _state(self, read: Callable[[], Network]) -> Mapping[str, Array]:
        state = read().conversion.state
        self.require_unchanged()
        return state

    def store(self, network: Network) -> None:
        """Store the facts about a network; its hash must be known."""
        if not self._key:
            return
        found = network.conversion
        facts = {
            "config": asdict(found.config),
            "conversion": (found.format, found.mapped, found.derived, found.dropped),
            "dtype": network.dtype,
            "notes": network.notes,
            "sha256": network.sha256,
        }
        self._cache.store(self._key, repr(facts).encode())


def _marks(files: Sequence[Path]) -> list[Mark] | None:
    """Return what changes with the files; None if one cannot be found."""
    try:
        found = [(os.path.realpath(file), os.stat(file)) for file in files]
    except OSError:
        return None
    return [
        (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in found
    ]


def _can_be_recognized(marks: Sequence[Mark] | None) -> bool:
    """Whether every later change of the files changes their marks."""
    if IS_WINDOWS or marks is None:
        return False
    return all(time.time() - ctime_ns / 1e9 >= SETTLED_S for *_, ctime_ns in marks)
