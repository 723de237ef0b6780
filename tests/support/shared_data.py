"""Find real photos and checkpoints. They are not part of the repository, and tests skip without them."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


def shared(name: str, kind: str = "data") -> Path:
    """Return a file of the folder ``$LEVIT_TEST_DATA``, or of ``shared/<kind>`` next to the repository."""
    folder = Path(os.environ.get("LEVIT_TEST_DATA") or REPOSITORY.parent / "shared" / kind)
    path = folder / name
    if not path.exists():
        pytest.skip(f"needs {name}, which is not in {folder} (set LEVIT_TEST_DATA to its folder)")
    return path


def shared_photos(name: str, count: int) -> Iterator[Image.Image]:
    """Yield ``count`` RGB photos, spread evenly over a shared tar of JPEGs."""
    return _photos(shared(name), count)


def _photos(archive: Path, count: int) -> Iterator[Image.Image]:
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        for member in members[:: max(len(members) // count, 1)][:count]:
            file = tar.extractfile(member)
            assert file is not None
            yield Image.open(file).convert("RGB")
