"""Describe the output of one shard in a file beside it, ``NAME.meta.json``, with which ``levit merge`` checks it.

The file is written when the output is complete, and removed before a run changes the output. It has the SHA-256 of the
output, so that a file which belongs to another output is found out.
"""

import base64
import binascii
import json
import sys
import zlib
from array import array
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from levit_cli.data.shards import Selection, Shard
from levit_cli.errors import UsageError, reason_of
from levit_cli.predict.resume.fingerprint import Fingerprint
from levit_cli.system.atomic import replace_bytes, writing

META_SUFFIX = ".meta.json"
SCHEMA_VERSION = 1
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardMeta:
    """What the output of a shard contains.

    Args:
        shard: the number of the shard, from 1.
        shards: the number of all shards.
        inputs: the number of inputs of this shard, each of which has a record.
        listed: the number of inputs of all shards.
        list_sha256: the hash of the paths of all inputs in their order, see ``ListDigest``.
        positions: the numbers of this shard's inputs among all inputs: differences between neighbors as 64-bit little
            endian integers, compressed with zlib, in Base64.
        output_sha256: the hash of the output.
        model_sha256: the hash of the model's weights.
        settings: everything that the records depend on.
    """

    shard: int
    shards: int
    inputs: int
    listed: int
    list_sha256: str
    positions: str
    output_sha256: str
    model_sha256: str
    settings: Fingerprint
    schema_version: int = SCHEMA_VERSION

    @property
    def as_shard(self) -> Shard:
        return Shard(self.shard, self.shards)


def meta_path(output: Path) -> Path:
    """Return the path of the file beside an output."""
    return output.with_name(output.name + META_SUFFIX)


def require_free_meta(output: Path) -> None:
    """Check that no file would be replaced that belongs to something else.

    Raises:
        UsageError: the output does not exist, but a file with the name of its description does.
    """
    path = meta_path(output)
    if path.exists() and not output.exists():
        raise UsageError(f"{path} exists", why="it was not touched", hint="--overwrite replaces it")


def store_meta(output: Path, selection: Selection, settings: Fingerprint) -> None:
    """Describe a complete output.

    Raises:
        OutputError: the file cannot be written.
    """
    with writing(output):
        digest = hash_of_file(output)
    meta = ShardMeta(
        selection.shard.number, selection.shard.count, len(selection.positions), selection.all.num_paths,
        selection.all.hex, pack(selection.positions), digest, settings["model"]["sha256"], settings,
    )  # fmt: skip
    replace_bytes(meta_path(output), json.dumps(asdict(meta), indent=1).encode() + b"\n")


def remove_meta(output: Path) -> None:
    """Remove the description of an output that is about to change."""
    with writing(meta_path(output)), suppress(FileNotFoundError):
        meta_path(output).unlink()


def read_meta(output: Path) -> ShardMeta:
    """Return the description of an output.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = meta_path(output)
    try:
        content = json.loads(path.read_bytes())
        meta = ShardMeta(**{field.name: content[field.name] for field in fields(ShardMeta)})
        _require_types(meta)
    except FileNotFoundError:
        why, hint = f"{path} does not exist", "run the shard again with --resume, or copy that file too"
        raise UsageError(f"{output} is not the output of a finished shard", why=why, hint=hint) from None
    except OSError as error:
        raise UsageError(f"Cannot read {path}", why=reason_of(error)) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path} is damaged", why=f"{type(error).__name__}: {error}"[:200]) from error
    return meta


def _require_types(meta: ShardMeta) -> None:
    if meta.schema_version != SCHEMA_VERSION:
        raise ValueError(f"its schema version is {meta.schema_version}; this version of levit reads {SCHEMA_VERSION}")
    numbers = (meta.shard, meta.shards, meta.inputs, meta.listed)
    if not all(type(number) is int for number in numbers) or not 1 <= meta.shard <= meta.shards:
        raise ValueError("its numbers are invalid")
    if not isinstance(meta.settings, dict) or len(unpack(meta.positions)) != meta.inputs:
        raise ValueError("its positions or settings are invalid")


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def pack(positions: "array[int]") -> str:
    """Return increasing numbers as text."""
    steps = array("Q", (after - before for before, after in zip(_preceded_by_0(positions), positions, strict=False)))
    _to_little_endian(steps)
    return base64.b64encode(zlib.compress(steps.tobytes())).decode("ascii")


def _preceded_by_0(positions: "array[int]") -> "array[int]":
    return array("Q", [0]) + positions


def unpack(text: Any) -> "array[int]":
    """Return the numbers that ``pack`` made a text of.

    Raises:
        ValueError: the text is damaged.
    """
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"its positions are damaged: {error}") from error
    steps, position = array("Q", data), 0
    _to_little_endian(steps)
    for number, step in enumerate(steps):
        position += step
        steps[number] = position
    return steps


def _to_little_endian(numbers: "array[int]") -> None:
    if sys.byteorder == "big":
        numbers.byteswap()
