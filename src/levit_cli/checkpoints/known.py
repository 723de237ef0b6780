"""Remember weight files that were read and checked, so that a cold start need not read them again.

If the compiled graph is cached too, a prediction needs only the config and the format of a checkpoint, not its weights.
A file is recognized by its path, its number in the file system, its size and the time of its last change in
nanoseconds. Nobody but the system can set that time. A file that changed less than ``SETTLED_S`` ago is not remembered,
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
from levit_cli.errors import IS_WINDOWS
from levit_cli.model.config import LevitConfig
from levit_cli.system.cache import FolderCache

SETTLED_S = 2.0
Array = NDArray[Any]


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
        self._cache = cache
        self._key = _identity(files, context)

    def recall(self, read: Callable[[], Network]) -> Network | None:
        """Return the network of the files, with a state that ``read`` reads on demand; None if they are not known."""
        content = self._cache.load(self._key) if self._key else None
        if content is None:
            return None
        try:
            facts = literal_eval(bytes(content).decode())
            config = LevitConfig(**facts["config"])
            conversion = StateDictConversion(
                StateOnDemand(lambda: read().conversion.state), config, *facts["conversion"]
            )
            return Network(conversion, facts["dtype"], facts["notes"], facts["sha256"])
        except (ValueError, SyntaxError, KeyError, TypeError):
            return None

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


def _identity(files: Sequence[Path], context: object) -> str:
    """Return a key that changes with the files, or nothing if they cannot be recognized later."""
    if IS_WINDOWS:
        return ""
    try:
        found = [(os.path.realpath(file), os.stat(file)) for file in files]
    except OSError:
        return ""
    if any(time.time() - status.st_ctime < SETTLED_S for _, status in found):
        return ""
    marks = [
        (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in found
    ]
    return repr((__version__, marks, context))
