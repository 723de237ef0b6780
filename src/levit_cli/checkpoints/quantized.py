"""The int8 graph of a model folder that ``levit quantize`` made, and the file that ties the graph to the weights.

The folder holds the original weights as any other model folder does, so that every program can load it. ``int8.json``
names the versions that made the graph and the SHA-256 of the graph and of the weights. A graph is run only if all of
them still match: its accuracy was measured with these weights and this version of OpenVINO.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from levit_cli import __version__
from levit_cli.checkpoints.weights import INT8_DESCRIPTION, sha256_of
from levit_cli.errors import InputError, RefusedError, reason_of
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.system.files import open_regular
from levit_cli.system.text import parse_json

GRAPH, CONSTANTS = "int8.xml", "int8.bin"
FORMAT = 1  # of the description and of the graph's inputs and outputs
EDITED = "a file was changed or replaced after levit quantize had measured the model"


class GraphFiles(NamedTuple):
    """The contents of a graph in OpenVINO's IR format."""

    xml: bytes
    constants: bytes


@dataclass(frozen=True)
class Gate:
    """The comparison of the int8 model with the original in fp32, on images that were not used for calibration.

    Args:
        images: number of images compared.
        unreadable: number of images that could not be read.
        agreement: share of images for which both models predict the same class.
        top1_before, top1_after: top-1 accuracy of the original and of the int8 model; None for images without classes.
        drop_interval: 95 % confidence interval of ``top1_before - top1_after``.
    """

    images: int
    unreadable: int
    agreement: float
    top1_before: float | None = None
    top1_after: float | None = None
    drop_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Int8Description:
    """The content of ``int8.json``.

    Args:
        levit, openvino, nncf: the versions that made the graph.
        files: SHA-256 of the graph's files and, once they are written, of the weights, by file name.
        image_size: (height, width) of the graph's input.
        mean, std: the normalization in the graph.
        data: the folder of images, as the user named it.
        samples: number of images for calibration.
        seed: seed of their choice.
        gate: the measured accuracy; None while it is being measured.
    """

    levit: str
    openvino: str
    nncf: str
    files: Mapping[str, str]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    samples: int
    seed: int
    gate: Gate | None

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


class QuantizedGraph:
    """The int8 graph in a model folder. Nothing is read before it is used.

    Args:
        description: the content of ``int8.json``, if the folder has no such file yet.
    """

    def __init__(self, folder: Path, description: Int8Description | None = None) -> None:
        self.folder = folder
        if description is not None:
            self.description = description

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantizedGraph) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    @cached_property
    def description(self) -> Int8Description:
        """The content of ``int8.json``.

        Raises:
            RefusedError: it cannot be read, or was written by another version of levit.
        """
        file = self.folder / INT8_DESCRIPTION
        try:
            return _parse(parse_json(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise self._refused(f"{file} cannot be read: {reason_of(error)}") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self._refused(f"{file} is damaged or from another version of levit: {error}") from error

    @property
    def sha256(self) -> str:
        """Identifies the graph; ``read`` checks it."""
        files = self.description.files
        return sha256(f"{files[GRAPH]} {files[CONSTANTS]}".encode()).hexdigest()

    def matches(self, config: LevitConfig, transform: Transform) -> bool:
        """Return whether the graph has the image size and the normalization of this preprocessing."""
        made = self.description
        return (made.image_size, made.mean, made.std) == (config.image_size, transform.mean, transform.std)

    def other_preprocessing(self) -> RefusedError:
        """Return the error of a graph that shall run and does not match the preprocessing."""
        why = "its image size or normalization is not that of the preprocessing"
        hint = "leave --preprocessing out, or use --precision fp32"
        return RefusedError(f"Cannot run the int8 graph of {self.folder}", why=why, hint=hint)

    def read(self, openvino: str) -> GraphFiles:
        """Return the graph, if it may be used.

        Args:
            openvino: the version of OpenVINO that shall run it.

        Raises:
            RefusedError: another version of OpenVINO or levit made it, or a file of the folder was changed.
        """
        self._require_versions(openvino)
        xml, constants = (self._content(name) for name in (GRAPH, CONSTANTS))
        for weights in self.description.files.keys() - {GRAPH, CONSTANTS}:
            self._require_hash(weights, self._hash_of(weights))
        return GraphFiles(xml, constants)

    def problem(self, openvino: str) -> str:
        """Return why the graph may not be used, or nothing."""
        try:
            self.read(openvino)
        except RefusedError as error:
            return error.why
        return ""

    def _require_versions(self, openvino: str) -> None:
        made = self.description
        if compatible(made.levit) != compatible(__version__):
            raise self._refused(f"levit {made.levit} made it, and this is levit {__version__}")
        if release(made.openvino) != release(openvino):
            raise self._refused(f"it was measured with OpenVINO {made.openvino}, and this is {openvino}")

    def _content(self, name: str) -> bytes:
        try:
            with open_regular(str(self.folder / name)) as file:
                content = file.read()
        except InputError as error:
            raise self._refused(f"{self.folder / name} cannot be read: {error.message}") from error
        except OSError as error:
            raise self._refused(f"{self.folder / name} cannot be read: {reason_of(error)}") from error
        self._require_hash(name, sha256(content).hexdigest())
        return content

    def _hash_of(self, name: str) -> str:
        try:
            return sha256_of(self.folder / name)
        except OSError as error:
            raise self._refused(f"{self.folder / name} cannot be read: {reason_of(error)}") from error

    def _require_hash(self, name: str, actual: str) -> None:
        if actual != self.description.files[name]:
            raise self._refused(f"{self.folder / name} is not the file of this graph: {EDITED}")

    def _refused(self, why: str) -> RefusedError:
        data = self.__dict__["description"].data if "description" in self.__dict__ else "FOLDER"
        again = quantize_command(str(self.folder), data)
        hint = f"make it again with: {again}; --precision fp32 runs the original weights"
        return RefusedError(f"Cannot run the int8 graph of {self.folder}", why=why, hint=hint)


def no_graph(model: str) -> RefusedError:
    """Return the error of a model that shall run in int8 and has no graph for it."""
    return RefusedError(
        f"{model} has no int8 graph",
        why="--precision int8 needs a model folder that levit quantize made",
        hint=f"make one with: {quantize_command(model, 'FOLDER')}",
    )


def quantize_command(model: str, data: str) -> str:
    """Return the command that makes an int8 model."""
    import shlex  # imported here because predictions import this module, but seldom call it

    return f"levit quantize {shlex.quote(model)} --data {shlex.quote(data)} -o NEW_FOLDER"


def compatible(version: str) -> tuple[str, ...]:
    """Return the part of a version of levit that is equal in compatible versions, as in semantic versioning."""
    major, minor = (*version.split("."), "0")[:2]
    return (major,) if major != "0" else (major, minor)


def release(version: str) -> str:
    """Return year and number of a release of OpenVINO, without its patch: ``2026.4`` of ``2026.4.1-2026-…``."""
    found = re.match(r"\d+\.\d+", version)
    return found[0] if found else version


def _parse(content: Any) -> Int8Description:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}, not {FORMAT}")
    gate, files = content["gate"], content["files"]
    interval = gate["drop_interval"]
    return Int8Description(
        levit=str(content["levit"]),
        openvino=str(content["openvino"]),
        nncf=str(content["nncf"]),
        files=_hashes(files),
        image_size=_pair(content["image_size"], int),
        mean=_floats(content["mean"]),
        std=_floats(content["std"]),
        data=str(content["data"]),
        samples=int(content["samples"]),
        seed=int(content["seed"]),
        gate=Gate(
            int(gate["images"]),
            int(gate["unreadable"]),
            _finite(gate["agreement"]),
            _optional(gate["top1_before"]),
            _optional(gate["top1_after"]),
            None if interval is None else _pair(interval, _finite),
        ),
    )


def _hashes(files: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes by file name: of the graph's two files and of the weights."""
    names = {str(name): str(value) for name, value in files.items()}
    others = names.keys() - {GRAPH, CONSTANTS}
    if len(names) != 3 or len(others) != 1 or any(Path(name).name != name for name in others):
        raise ValueError(f"it lists the files {sorted(names)}")
    return names


def _pair(values: Sequence[Any], kind: Any) -> Any:
    first, second = values
    return kind(first), kind(second)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(_finite(value) for value in values)


def _optional(value: Any) -> float | None:
    return None if value is None else _finite(value)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no measured value")
    return number


def write_description(description: Int8Description) -> str:
    """Return the text of ``int8.json``."""
    return json.dumps(description.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
