"""Open an index, which is an output of ``levit embed`` in any of its formats, as paths and blocks of vectors."""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from levit_cli.embed.npz import NpzIndex
from levit_cli.embed.records import from_json
from levit_cli.embed.spool import BLOCK_ROWS
from levit_cli.errors import RefusedError, UsageError
from levit_cli.predict.pipeline import normalized
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log
from levit_cli.system.text import printable

Block = tuple[list[str], NDArray[np.floating]]  # paths, and vectors (B, C)
OF_MODEL = ("sha256", "int8_sha256")
OF_PREPROCESSING = ("decode", "resizer")  # which change vectors only slightly


class Index(Protocol):
    """The vectors of images.

    Attributes:
        size: C, the length of a vector.
        meta: what the index says about its model; empty if it says nothing.
    """

    path: Path
    size: int
    meta: Mapping[str, Any]

    def blocks(self) -> Iterator[Block]:
        """Yield the paths and vectors (B, C) of the images, in order, a few thousand at a time.

        Raises:
            RefusedError: the file is damaged.
        """


def open_index(path: Path) -> Index:
    """Open an index by its suffix.

    Raises:
        UsageError: there is no such file, its suffix is none of an index, or the extra ``parquet`` is not installed.
        RefusedError: it is no index, or damaged.
    """
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(
            f"Cannot read the index {path}", why=why, hint="make one with levit embed INPUT... -o FILE.npz"
        )
    index = _by_suffix(path)
    _require_consistent_meta(index)
    return index


def _by_suffix(path: Path) -> Index:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return NpzIndex(path)
    if suffix == ".jsonl":
        return JsonLinesIndex(path)
    if suffix == ".parquet":
        with extra("parquet", "Reading Parquet"):
            from levit_cli.embed.parquet import ParquetIndex
        return ParquetIndex(path)
    raise UsageError(f"{path} is no index", why="its suffix is not .npz, .parquet or .jsonl")


def _require_consistent_meta(index: Index) -> None:
    """Check that an index which names its model also names the preprocessing, each as a JSON object."""
    meta: object = index.meta
    if not isinstance(meta, dict):
        raise RefusedError(f"Cannot read the index {index.path}", why="its meta is no JSON object")
    if "model" in meta and not all(isinstance(meta.get(name), dict) for name in ("model", "preprocessing")):
        why = "its meta does not describe the model and the preprocessing as JSON objects"
        raise RefusedError(f"Cannot read the index {index.path}", why=why)


class JsonLinesIndex:
    """An index in jsonl. Attributes, methods and errors as those of ``Index``."""

    def __init__(self, path: Path) -> None:
        from levit_cli.predict.resume.fingerprint import read_fingerprint

        self.path = path
        with path.open("rb") as file:
            self.meta: Mapping[str, Any] = read_fingerprint(file.fileno()) or {}
        self.size = next((block.shape[1] for _, block in self.blocks()), 0)

    def blocks(self) -> Iterator[Block]:
        rows = self._rows()
        while block := [*islice(rows, BLOCK_ROWS)]:
            paths, vectors = zip(*block, strict=True)
            yield [*paths], np.stack(vectors)

    def _rows(self) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """Yield the path and the vector of each record without an error."""
        size = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    embedding = from_json(json.loads(line))
                except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                    why = f"line {number} is not a record of levit embed"
                    raise RefusedError(f"Cannot read the index {self.path}", why=why) from error
                if embedding.vector is None:
                    continue
                size = size or len(embedding.vector)
                if len(embedding.vector) != size:
                    why = f"the vector in line {number} has {len(embedding.vector)} numbers, not {size}"
                    raise RefusedError(f"Cannot read the index {self.path}", why=why)
                yield embedding.path, embedding.vector


def unit_blocks(index: Index) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield the paths and the vectors (B, C) divided by their norms; a zero vector stays zero.

    Raises:
        RefusedError: the file is damaged, or a vector is empty or contains NaN or infinity.
    """
    for paths, vectors in index.blocks():
        if not vectors.shape[1]:
            raise RefusedError(f"Cannot use the index {index.path}", why="its vectors have no numbers")
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            path = printable(paths[int(np.argmin(finite))])
            raise RefusedError(f"Cannot use the index {index.path}", why=f"the vector of {path} holds NaN or infinity")
        yield paths, normalized(vectors)


def require_same_model(index: Index, meta: Mapping[str, Any], log: Log) -> None:
    """Check that an index has vectors of this run's model and preprocessing.

    Args:
        meta: of this run, as ``describe_vectors`` returns it.
        log: receives a note if the index does not say which model it is from, or if other settings differ.

    Raises:
        RefusedError: it is of another model or preprocessing.
    """
    if index.size and index.size != meta["size"]:
        raise _other(index, f"its vectors have {index.size} numbers, those of the model have {meta['size']}")
    if "model" not in index.meta:
        log(f"Note: {index.path} does not say which model made it, so that is not checked")
        return
    theirs, ours = index.meta["model"], meta["model"]
    if theirs.get("sha256") != ours["sha256"]:
        name = theirs.get("name")
        raise _other(index, f"it is of {f'the model {name}' if name else 'another model'}, not of {ours['name']}")
    before, now = (
        {key: value for key, value in json.loads(json.dumps(settings)).items() if key not in OF_PREPROCESSING}
        for settings in (index.meta["preprocessing"], meta["preprocessing"])
    )
    if differing := [key for key in now if before.get(key) != now[key]]:
        details = ", ".join(f"{key} is {before.get(key)} there and {now[key]} here" for key in differing)
        raise _other(index, f"it is of another preprocessing: {details}")
    if index.meta.get("precision") != meta["precision"]:
        log(f"Note: {index.path} was computed in {index.meta.get('precision')}, the queries in {meta['precision']}")


def _other(index: Index, why: str) -> RefusedError:
    hint = f"use the model and preprocessing of the index, or make it again: levit embed INPUT... -o {index.path}"
    return RefusedError(f"The index {index.path} does not fit", why=why, hint=hint)


def require_not_written(index: Path, output: Path | None) -> None:
    """Check that an output does not replace the index.

    Raises:
        UsageError: it does.
    """
    if output is not None and output.exists() and os.path.samefile(index, output):
        raise UsageError(f"The output {output} is the index", why="it was not touched", hint="choose another name")
