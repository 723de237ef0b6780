"""Features that are kept between runs: found by content, computed again if anything else changed or is damaged."""

from pathlib import Path

import numpy as np
import pytest

from levit_cli.errors import OutputError, UsageError
from levit_cli.probe.feature_cache import FeatureCache, digest_of, file_in

DIGEST, VECTOR = digest_of(b"image"), np.arange(6, dtype=np.float32)


def cache(path: Path, settings: str = "a", width: int = 6, lines: list[str] | None = None) -> FeatureCache:
    return FeatureCache(path, settings, width, (lines if lines is not None else []).append)


def saved(path: Path) -> Path:
    """Save one vector and return the file."""
    new = cache(path)
    assert new.find(DIGEST) is None
    new.add(DIGEST, VECTOR)
    new.save()
    return new.file


@pytest.mark.parametrize("name", ["folder", "file.npz"])
def test_features_are_found_by_the_hash_of_the_image(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path / name)
    lines: list[str] = []
    found = cache(tmp_path / name, lines=lines).find(DIGEST)
    assert found is not None
    assert (found == VECTOR).all()
    assert cache(tmp_path / name).find(digest_of(b"another")) is None
    assert lines == []
    assert file.suffix == ".npz"


def test_a_folder_holds_a_file_for_each_model_and_a_file_only_the_last(tmp_path: Path) -> None:
    for settings in ("a", "b"):
        new = cache(tmp_path / "folder", settings)
        new.add(DIGEST, VECTOR)
        new.save()
    assert len([*(tmp_path / "folder").iterdir()]) == 2
    assert cache(tmp_path / "folder", "a").find(DIGEST) is not None
    saved(tmp_path / "one.npz")
    assert cache(tmp_path / "one.npz", "b").find(DIGEST) is None


def test_a_folder_may_end_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.npz").mkdir()
    assert file_in(tmp_path / "x.npz", "a").parent == tmp_path / "x.npz"


def test_a_file_of_other_arrays_is_not_replaced(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vectors=np.zeros((2, 6)))
    before = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(UsageError, match="no cache of levit probe"):
        cache(tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "no rows", "scalar", "width", "nan", "pickle"])
def test_a_damaged_file_is_reported_and_replaced(damage: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "x.npz")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[content.index(VECTOR.tobytes()) + 5] ^= 1
    damaged = {"empty": b"", "cut": bytes(content[:-30]), "text": b"features", "flipped": bytes(content)}
    if damage in damaged:
        file.write_bytes(damaged[damage])
    else:
        arrays = dict(np.load(file))
        arrays["features"] = {
            "width": arrays["features"][:, :4],
            "nan": arrays["features"] * np.nan,
            "pickle": np.array([object()], object),
            "no rows": arrays["features"][:0],
            "scalar": np.float32(1),
        }[damage]
        np.savez(file, **arrays)
    lines: list[str] = []
    new = cache(tmp_path / "x.npz", lines=lines)
    assert new.find(DIGEST) is None
    assert len(lines) == 1
    assert f"{file} are computed again · the file is damaged" in lines[0]
    new.add(DIGEST, VECTOR)
    new.save()
    assert cache(tmp_path / "x.npz").find(DIGEST) is not None


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    new = cache(tmp_path / "file" / "folder")
    new.save()  # there is nothing new
    new.add(DIGEST, VECTOR)
    with pytest.raises(OutputError):
        new.save()
