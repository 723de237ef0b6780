"""Features of images in a file, so that the next run with the same model does not compute them again.

An image is identified by the hash of its bytes, so it may be moved or renamed, and is computed again when it changes.
The file also stores what else the features depend on, such as the hash of the model. If that differs, or if the file is
damaged, all features are computed again.
"""

import io
import zipfile
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levit_cli.errors import OutputError, UsageError, reason_of
from levit_cli.system.atomic import replace_bytes
from levit_cli.system.progress import Log

SUFFIX = ".npz"
DIGEST_BYTES = 16
ARRAYS = ("settings", "digests", "features")
READ_ERRORS = (
    *(OSError, ValueError, TypeError, AttributeError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

Features = NDArray[np.float32]


def digest_of(content: bytes) -> bytes:
    """Return the hash that identifies the bytes of an image."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def file_in(path: Path, settings: str) -> Path:
    """Return the file of a cache: ``path`` if it ends in .npz, else a file in the folder ``path``, by the settings."""
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        return path
    return path / f"{blake2b(settings.encode(), digest_size=8).hexdigest()}{SUFFIX}"


class FeatureCache:
    """The features that are known from earlier runs, and those of this run.

    Args:
        path: a file that ends in .npz, or a folder with one file for each model and preprocessing.
        settings: everything but the image on which the features depend.
        width: number of features of an image.
        log: gets one line if the file is damaged.

    Raises:
        UsageError: the file holds other arrays, which must not be replaced.
    """

    def __init__(self, path: Path, settings: str, width: int, log: Log) -> None:
        self.file, self._settings, self._width = file_in(path, settings), settings, width
        self._known: dict[bytes, Features] = {}
        self._is_new = False
        if self.file.exists():
            try:
                self._known = self._read()
            except READ_ERRORS as error:
                why = reason_of(error) if isinstance(error, OSError) else "the file is damaged"
                log(f"Warning: the features in {self.file} are computed again · {why}")

    def _read(self) -> dict[bytes, Features]:
        with np.load(io.BytesIO(self.file.read_bytes()), allow_pickle=False) as arrays:
            if not {*ARRAYS} <= {*arrays.files}:
                why, hint = "it holds other arrays and was not touched", "choose another name"
                raise UsageError(f"{self.file} is no cache of levit probe", why=why, hint=hint)
            settings, digests, features = str(arrays["settings"]), arrays["digests"], arrays["features"]
        if settings != self._settings:
            return {}
        is_valid = features.dtype == np.float32 and features.ndim == 2 and features.shape[1] == self._width
        is_valid = is_valid and digests.dtype == np.uint8 and digests.shape == (len(features), DIGEST_BYTES)
        if not is_valid or not np.isfinite(features).all():
            raise ValueError("the file is damaged")
        return {digest.tobytes(): row for digest, row in zip(digests, features, strict=True)}

    def find(self, digest: bytes) -> Features | None:
        return self._known.get(digest)

    def add(self, digest: bytes, features: Features) -> None:
        self._known[digest] = features
        self._is_new = True

    def save(self) -> None:
        """Write the features, unless there are no new ones. The file is replaced atomically.

        Raises:
            OutputError: it cannot be written.
        """
        if not self._is_new:
            return
        digests = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, DIGEST_BYTES)
        buffer = io.BytesIO()
        np.savez(buffer, settings=np.array(self._settings), digests=digests, features=np.stack([*self._known.values()]))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot create the folder {self.file.parent}", why=reason_of(error)) from error
        replace_bytes(self.file, buffer.getvalue())
        self._is_new = False
