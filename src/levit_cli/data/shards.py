"""Divide the inputs of a run into shards by a hash of their paths, so that each job of a job array takes its own.

The shard of a path depends on nothing else: not on the machine, the process or the other inputs. It is the SHA-256 of
the path's bytes; its first 8 bytes, big-endian, modulo the number of shards, plus 1.
"""

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from levit_cli.data.input import Input
from levit_cli.errors import UsageError

SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shards, numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def includes(self, path: str) -> bool:
        """Whether the input with this path, as its record has it, belongs to the shard."""
        return shard_of(os.fsencode(path), self.count) == self.number


def shard_of(path: bytes, count: int) -> int:
    """Return the shard of a path, from 1 to ``count``."""
    return int.from_bytes(sha256(path).digest()[:8], "big") % count + 1


def parse_shard(text: str) -> Shard:
    """Return the shard that ``I/N`` names.

    Raises:
        UsageError: it names none.
    """
    match = SHARD.fullmatch(text)
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise UsageError(f"--shard {text!r} is not a shard", hint="use I/N with I from 1 to N, such as 1/4")
    return shard


class ListDigest:
    """The SHA-256 of a list of paths, each followed by a NUL.

    Attributes:
        num_paths: the number of paths so far.
    """

    def __init__(self) -> None:
        self.num_paths = 0
        self._digest = sha256()

    def add(self, path: bytes) -> None:
        self.num_paths += 1
        self._digest.update(path + b"\0")

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()


class Selection:
    """Selects the inputs of one shard. It remembers where they are in the list of all inputs.

    Attributes:
        all: the digest of all inputs that were listed so far.
        positions: the numbers of the selected inputs in that list, from 0.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.all = ListDigest()
        self.positions = array("Q")

    def of(self, inputs: Iterable[Input]) -> Iterator[Input]:
        for item in inputs:
            path = os.fsencode(item.path)
            position = self.all.num_paths
            self.all.add(path)
            if shard_of(path, self.shard.count) == self.shard.number:
                self.positions.append(position)
                yield item
