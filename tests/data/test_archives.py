"""Archives are read like folders, as streams, and nothing in them is ever written to disk."""

import io
import tarfile
from pathlib import Path

import pytest

from levit_cli.data.input import Input
from levit_cli.data.inputs import from_paths
from levit_cli.data.skipped import Skipped


def tar_of(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def content_of(item: Input) -> bytes:
    if item.content is not None:
        return item.content
    assert item.load is not None
    return item.load()


def listed(path: Path, skipped: Skipped | None = None) -> list[Input]:
    return [*from_paths([str(path)], skipped)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_listed_in_its_order(format: int, tmp_path: Path) -> None:
    names = ["b/z.jpg", "a.png", f"{'d' * 90}/{'e' * 60}.jpg", "B.JPG", "b/a.webp"]
    path = tar_of(tmp_path / "x.tar", {name: name.encode() * 200 for name in names}, format=format)
    items = listed(path)
    assert [item.path for item in items] == [f"{path}!/{name}" for name in names]
    assert [content_of(item) for item in items] == [name.encode() * 200 for name in names]
