"""The weights of a file that was read before are not read again, unless they are needed or the file changed."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from levit_cli.checkpoints import known as known_module
from levit_cli.checkpoints import load
from levit_cli.checkpoints.load import Checkpoint
from levit_cli.errors import IS_WINDOWS, RefusedError
from levit_cli.system.cache import FolderCache
from tests.support.binary import environment, levit
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import write_images

pytestmark = pytest.mark.skipif(IS_WINDOWS, reason="the time of the last change is not available")
LOAD = import_module("levit_cli.checkpoints.load")  # the package exports its function under the same name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(known_module, "SETTLED_S", 0.0)
    return write_folder(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path / "cache")


def refuse_to_read(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the weights were read")


def remembered(folder: Path, cache: FolderCache) -> Checkpoint:
    checkpoint = load(folder, cache=cache)
    checkpoint.remember()
    return checkpoint


def test_a_known_file_is_not_read(folder: Path, cache: FolderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = remembered(folder, cache)
    monkeypatch.setattr(LOAD, "read_weights", refuse_to_read)
    second = load(folder, cache=cache)
    for name in ("config", "labels", "transform", "format", "dtype", "notes", "temperature", "sha256", "files"):
        assert getattr(second, name) == getattr(first, name), name
    with pytest.raises(AssertionError, match="were read"):
        len(second.state)
    with pytest.raises(AssertionError, match="were read"):
        load(folder)  # without a cache


def test_the_state_is_read_when_it_is_needed(folder: Path, cache: FolderCache) -> None:
    first, second = remembered(folder, cache), load(folder, cache=cache)
    assert second.known_sha256 == first.sha256
    assert [*second.state] == [*first.state]
    for name, array in first.state.items():
        np.testing.assert_array_equal(second.state[name], array)


def test_a_file_that_is_gone_when_the_state_is_needed_is_an_error(folder: Path, cache: FolderCache) -> None:
    remembered(folder, cache)
    second = load(folder, cache=cache)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RefusedError):
        len(second.state)


@pytest.mark.parametrize("is_known", [True, False])
def test_weights_that_are_replaced_while_they_are_read_are_not_cached(
    folder: Path, cache: FolderCache, tmp_path: Path, is_known: bool
) -> None:
    """The compiled graph of some weights must not be stored under the hash of others."""
    if is_known:
        remembered(folder, cache)
    checkpoint = load(folder, cache=cache)
    other = write_folder(tmp_path / "other", random_state(TINY, seed=5)) / "model.safetensors"
    os.replace(other, folder / "model.safetensors")
    with pytest.raises(RefusedError, match="was changed while it was read"):
        len(checkpoint.state) if is_known else checkpoint.sha256


def test_a_file_that_changed_in_place_is_read_even_if_its_times_were_restored(folder: Path, cache: FolderCache) -> None:
    before = remembered(folder, cache).sha256
    path = folder / "model.safetensors"
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x3d")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load(folder, cache=cache).sha256 != before


def test_a_config_with_another_rate_is_not_mistaken_for_the_known_one(folder: Path, cache: FolderCache) -> None:
    remembered(folder, cache)
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["levit_cli"]["drop_path_rate"] = 0.5
    path.write_text(json.dumps(config))
    assert load(folder, cache=cache).config.drop_path_rate == 0.5


def test_a_file_that_has_just_changed_is_not_remembered(
    folder: Path, cache: FolderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_module, "SETTLED_S", 3600.0)
    remembered(folder, cache)
    assert not load(folder, cache=cache).known_sha256


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{'config': {}}", b"\xff", b"(" * 500])
def test_an_entry_that_is_not_understood_is_ignored(folder: Path, cache: FolderCache, content: bytes) -> None:
    first = load(folder, cache=cache)
    assert first.known is not None
    cache.store(first.known._key, content)
    assert load(folder, cache=cache).sha256 == first.sha256


def test_a_second_prediction_finds_what_the_first_has_stored(tmp_path: Path) -> None:
    (image,) = write_images(tmp_path, 1)
    options = (*("predict", image, "-m", "demo", "-f", "jsonl", "-q"),)
    first, second = (levit(*options, env=environment(XDG_CACHE_HOME=str(tmp_path / "cache"))) for _ in range(2))
    assert first.stdout == second.stdout
    assert len([*(tmp_path / "cache" / "levit" / "weights").iterdir()]) == 1
