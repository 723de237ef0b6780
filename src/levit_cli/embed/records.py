"""Encode and decode embeddings in jsonl: one JSON object with the path, the status and the vector per line."""

import base64
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, get_args

import numpy as np

from levit_cli.choices import VectorType
from levit_cli.errors import InputError, InputErrorKind
from levit_cli.predict.pipeline import Embedding
from levit_cli.predict.records import as_json, path_fields

DIGITS: dict[VectorType, int] = {"float32": 9, "float16": 5}  # with as many digits, the same number is read back


class EmbeddingLines:
    """The ``RecordFormat`` of embeddings.

    Args:
        size: C, the length of a vector.
        dtype: the type of its numbers.
    """

    header = b""

    def __init__(self, size: int, dtype: VectorType) -> None:
        self._size, self._dtype = size, dtype
        self._vector = ", ".join([f"%.{DIGITS[dtype]}g"] * size)

    def encode(self, embedding: Embedding) -> bytes:
        head = path_fields(embedding.path)
        if embedding.error is not None:
            error = {"kind": embedding.error.kind, "message": embedding.error.message}
            return as_json({**head, "status": "error", "error": error}) + b"\n"
        assert embedding.vector is not None
        numbers = self._vector % (*embedding.vector.tolist(),)
        return b'%s, "vector": [%s]}\n' % (as_json({**head, "status": "ok"})[:-1], numbers.encode())

    def decode(self, record: bytes) -> Embedding:
        try:
            embedding = from_json(json.loads(record), self._dtype)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is not a record of levit embed") from error
        if embedding.vector is not None and len(embedding.vector) != self._size:
            raise ValueError(f"its vector has {len(embedding.vector)} numbers, this model's have {self._size}")
        if self.encode(embedding) != record:
            raise ValueError("this run would write it differently")
        return embedding

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        return (line for line in file if line.endswith(b"\n"))


def from_json(content: Any, dtype: VectorType = "float32") -> Embedding:
    """Return the embedding of a JSON object.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is not a record of ``levit embed``.
    """
    raw = base64.b64decode(content["path_b64"]) if "path_b64" in content else content["path"].encode()
    path = os.fsdecode(raw)
    if error := content.get("error"):
        return Embedding(path, error=InputError(_kind(error["kind"]), str(error["message"])))
    vector = np.array(content["vector"], dtype)
    if vector.ndim != 1:
        raise ValueError(f"the vector has {vector.ndim} dimensions")
    return Embedding(path, vector)


def _kind(text: str) -> InputErrorKind:
    known: tuple[InputErrorKind, ...] = get_args(InputErrorKind)
    return known[known.index(text)]
