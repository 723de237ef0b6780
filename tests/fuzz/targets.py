"""Fuzz targets: guarantees for any bytes in an image file and in each file of a model."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from levit_cli.checkpoints import load
from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, RefusedError
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import LevitConfig
from levit_cli.predict.reader import Reader
from tests.support.checkpoint_files import arrays_of, write_arrays

SMALLEST = LevitConfig((8, 8, 8), (8, 8, 8), (1, 1, 1), (1, 1, 1), num_classes=3, image_size=(32, 32))
TRANSFORM = transform_for("hf", (64, 64))
READERS = (Reader(TRANSFORM), Reader(TRANSFORM, "fast"), Reader(transform_for("fb", (64, 64))))
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")


def image(data: bytes) -> None:
    """Check that reading returns pixels of the right size or an ``InputError``, and the same when repeated."""
    for reader in READERS:
        first, second = pixels_or_error(reader, data), pixels_or_error(reader, data)
        assert first == second, f"first {first!r:.200}, then {second!r:.200}"


def pixels_or_error(reader: Reader, data: bytes) -> bytes | str:
    try:
        pixels = reader(Input("fuzzed.jpg", content=data))
    except InputError as error:
        return error.kind
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*reader.transform.crop_size, 3)
    return pixels.tobytes()


class Model:
    """A model folder in which one file is replaced. The first input byte selects the file and the kind of damage.

    Args:
        source: the folder of a valid model.
        folder: the folder in which a copy is damaged.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.valid = {path.name: path.read_bytes() for path in source.iterdir()}
        for name, content in self.valid.items():
            (folder / name).write_bytes(content)
        weights = self.valid["model.safetensors"]
        self.tensors = weights[8 + int.from_bytes(weights[:8], "little") :]
        self.archive = Archive(folder / "archive.pth")

    def __call__(self, data: bytes) -> None:
        """Check that loading returns a LeViT with finite weights or raises ``RefusedError``."""
        if not data:
            return
        self.methods[data[0] % len(self.methods)](self, data[1:])

    def damage(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.write_bytes(content)
        try:
            self.load(self.folder)
        finally:
            path.write_bytes(self.valid[name])

    def load(self, source: Path) -> None:
        try:
            checkpoint = load(source)
        except RefusedError:
            return
        assert checkpoint.config.num_classes == len(checkpoint.labels.names)
        assert all(np.isfinite(array).all() for array in checkpoint.state.values())

    def weights(self, data: bytes) -> None:
        self.damage("model.safetensors", data)

    def header(self, data: bytes) -> None:
        self.damage("model.safetensors", len(data).to_bytes(8, "little") + data + self.tensors)

    def config(self, data: bytes) -> None:
        self.damage("config.json", data)

    def preprocessing(self, data: bytes) -> None:
        self.damage("preprocessor_config.json", data)

    def pickled(self, data: bytes) -> None:
        """Replace the pickle in an archive of ``torch.save`` that holds tensors."""
        self.load(self.archive.with_pickle(data))

    def bare(self, data: bytes) -> None:
        """Replace a whole weight file."""
        path = self.folder / "bare.pth"
        path.write_bytes(data)
        self.load(path)

    def directory(self, data: bytes) -> None:
        """Replace the directory at the end of an archive."""
        path = self.folder / "directory.pth"
        path.write_bytes(self.archive.before_directory + data)
        self.load(path)

    methods: tuple[Callable[["Model", bytes], None], ...] = (
        weights,
        header,
        config,
        preprocessing,
        pickled,
        bare,
        directory,
    )


class Archive:
    """A file written by ``torch.save`` whose pickle can be replaced."""

    def __init__(self, path: Path) -> None:
        import zipfile

        self.path = write_arrays(path, arrays_of("fb", SMALLEST))
        with zipfile.ZipFile(path) as archive:
            self.entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            self.directory = path.read_bytes()[archive.start_dir :]
        self.before_directory = path.read_bytes()[: -len(self.directory)]
        self.pickle = next(name for name in self.entries if name.endswith("data.pkl"))

    def with_pickle(self, data: bytes) -> Path:
        import zipfile

        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in {**self.entries, self.pickle: data}.items():
                archive.writestr(name, content)
        return self.path


def forbid_side_effects() -> None:
    """Abort this process from now on if it starts a process, opens a connection or loads a library."""

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            abort(event, arguments)

    sys.addaudithook(check)


def abort(event: str, arguments: tuple[Any, ...]) -> NoReturn:
    import os
    import traceback

    traceback.print_stack()
    print(f"a data file caused {event} {arguments!r:.300}", file=sys.stderr, flush=True)
    os.abort()
