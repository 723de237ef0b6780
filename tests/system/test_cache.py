import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from levit_cli.checkpoints import load
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.system.cache import MAX_ENTRIES, FolderCache, cache_folder
from tests.support.random_weights import random_pixels

SPEC = EngineSpec(device="cpu", precision="fp32", threads=1, batch_size=1)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows keep caches elsewhere")
@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "/fast/cache"}, "/fast/cache/levit"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": ""}, "/home/ada/.cache/levit"),
        ({"HOME": "/home/ada"}, "/home/ada/.cache/levit"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/levit"),  # XDG: it must be absolute
        ({"XDG_CACHE_HOME": "/fast/cache"}, "/fast/cache/levit"),
    ],
)
def test_the_cache_folder_on_linux_follows_the_xdg_rules(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


def raise_runtime_error(name: str, **_: object) -> Path:
    raise RuntimeError(f"no home folder for {name}")


@pytest.mark.parametrize("find", [raise_runtime_error, lambda name, **_: Path("~/.cache") / name])
def test_without_a_home_folder_nothing_is_cached(monkeypatch: pytest.MonkeyPatch, find: Callable[..., Path]) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", find)
    cache = FolderCache(cache_folder())
    cache.store("a", b"x")
    assert cache.load("a") is None


def test_stored_bytes_are_loaded_by_their_key_only(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path / "graphs")
    assert cache.load("a") is None
    cache.store("a", b"one")
    cache.store("b", b"two")
    assert bytes(cache.load("a") or b"") == b"one"
    assert bytes(cache.load("b") or b"") == b"two"
    assert cache.load("c") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"\xff" + data[1:]])
def test_a_damaged_graph_counts_as_missing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = FolderCache(tmp_path)
    cache.store("a", b"content")
    (path,) = tmp_path.glob("*.entry")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load("a") is None


def test_the_least_recently_used_graphs_are_removed_first(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    for number in range(MAX_ENTRIES + 2):
        cache.store(str(number), b"x")
        (path,) = [path for path in tmp_path.glob("*.entry") if path.stat().st_mtime > 10**6]
        os.utime(path, (number, number))
    assert cache.load("0") is None
    assert bytes(cache.load(str(MAX_ENTRIES + 1)) or b"") == b"x"
    assert len(list(tmp_path.glob("*.entry"))) == MAX_ENTRIES


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = FolderCache(tmp_path / "file" / "graphs")
    cache.store("a", b"x")
    assert cache.load("a") is None


def test_a_cached_graph_computes_the_same_logits(tmp_path: Path) -> None:
    cache, demo = FolderCache(tmp_path), load("demo")
    pixels = random_pixels(demo.config, 1)
    first = make_engine(demo, SPEC, cache)
    answer = first(pixels)
    first.save_cache()
    assert len(list(tmp_path.glob("*.entry"))) == 1
    np.testing.assert_array_equal(make_engine(demo, SPEC, cache)(pixels), answer)


def test_a_cached_file_that_is_no_graph_is_compiled_again(tmp_path: Path) -> None:
    class CorruptCache(FolderCache):
        def load(self, key: str) -> memoryview:
            return memoryview(b"not an OpenVINO graph")

    demo = load("demo")
    pixels = random_pixels(demo.config, 1)
    np.testing.assert_array_equal(
        make_engine(demo, SPEC, CorruptCache(tmp_path))(pixels), make_engine(demo, SPEC)(pixels)
    )
