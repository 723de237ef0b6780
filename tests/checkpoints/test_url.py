"""Weights from a URL are verified by their hash and downloaded only once."""

import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest

from levit_cli import checkpoints
from levit_cli.checkpoints import url as weights_url
from levit_cli.checkpoints.save import to_format
from levit_cli.checkpoints.weights import write_safetensors
from levit_cli.errors import LevitError, OutputError, RefusedError, UnreachableError
from tests.support.fake_hub import Exchange, FakeSite, flip
from tests.support.random_weights import TINY, random_state

CONTENT = b"\x80 as good as weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"LeViT-tiny-{SHA256[:8]}.pth"


@pytest.fixture
def site(site: FakeSite) -> FakeSite:
    """The shared site with a weight file."""
    site.pages |= dict.fromkeys((f"/{NAME}", "/plain.pth"), lambda exchange: exchange.reply(200, CONTENT))
    return site


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refused(url: str, sha256: str | None = None, *, offline: bool = False) -> LevitError:
    with pytest.raises(LevitError) as caught:
        weights_url.fetch(url, sha256, offline=offline)
    return caught.value


@pytest.mark.parametrize("name", [NAME, f"x-{SHA256}.pth", f"{NAME}?download=true#there"])
def test_the_hash_in_the_file_name_is_used(site: FakeSite, cache: Path, name: str) -> None:
    site.pages[f"/x-{SHA256}.pth"] = site.pages[f"/{NAME}"]
    path = weights_url.fetch(f"{site.url}/{name}", None, offline=False)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache / "levit")


@pytest.mark.parametrize("sha256", [SHA256, SHA256.upper(), SHA256[:12]])
def test_the_hash_can_be_passed_as_an_argument(site: FakeSite, sha256: str) -> None:
    assert weights_url.fetch(f"{site.url}/plain.pth", sha256, offline=False).read_bytes() == CONTENT


def test_a_cached_file_is_used_without_a_request(site: FakeSite) -> None:
    first = weights_url.fetch(f"{site.url}/{NAME}", None, offline=False)
    site.requests.clear()
    assert weights_url.fetch(f"{site.url}/{NAME}", None, offline=False) == first
    assert weights_url.fetch(f"{site.url}/{NAME}", None, offline=True) == first
    assert not site.requests


def test_an_uncached_file_is_unreachable_offline_without_a_request(site: FakeSite) -> None:
    error = refused(f"{site.url}/{NAME}", offline=True)
    assert isinstance(error, UnreachableError)
    assert "--model demo" in error.hint
    assert "--model PATH" in error.hint
    assert not site.requests


@pytest.mark.parametrize("name", [f"LeViT-tiny-{'0' * 8}.pth", f"LeViT-tiny-{SHA256[:7]}{'0' * 57}.pth"])
def test_a_file_with_the_wrong_hash_is_refused_and_not_kept(site: FakeSite, cache: Path, name: str) -> None:
    site.pages[f"/{name}"] = site.pages[f"/{NAME}"]
    error = refused(f"{site.url}/{name}")
    assert isinstance(error, RefusedError)
    assert SHA256 in error.why
    assert not files_in(cache)


def test_a_passed_hash_takes_precedence_over_the_file_name(site: FakeSite, cache: Path) -> None:
    assert isinstance(refused(f"{site.url}/{NAME}", "0" * 64), RefusedError)
    assert not files_in(cache)


def test_a_bit_flipped_in_transit_is_refused_and_not_kept(site: FakeSite, cache: Path) -> None:
    site.pages[f"/{NAME}"] = lambda exchange: exchange.reply(200, flip(CONTENT))
    assert isinstance(refused(f"{site.url}/{NAME}"), RefusedError)
    assert not files_in(cache)


def test_a_bit_flipped_in_the_cache_is_detected_and_downloaded_again(site: FakeSite) -> None:
    path = weights_url.fetch(f"{site.url}/{NAME}", None, offline=False)
    path.write_bytes(flip(CONTENT))
    assert isinstance(refused(f"{site.url}/{NAME}", offline=True), UnreachableError)
    assert weights_url.fetch(f"{site.url}/{NAME}", None, offline=False).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["plain.pth", "model-beefbee.pth", "96703c44.pth"])
def test_a_url_without_any_hash_is_refused_before_the_download(site: FakeSite, name: str) -> None:
    error = refused(f"{site.url}/{name}")
    assert isinstance(error, RefusedError)
    assert "--sha256" in error.hint
    assert not site.requests


@pytest.mark.parametrize("sha256", ["beef", "not hexadecimal", "0" * 65])
def test_an_invalid_hash_is_refused_before_the_download(site: FakeSite, sha256: str) -> None:
    error = refused(f"{site.url}/plain.pth", sha256)
    assert isinstance(error, RefusedError)
    assert sha256 in error.what
    assert not site.requests


@pytest.mark.parametrize("url", ["https://example.org/", "https://example.org/page.html", "https://[broken/x.pth"])
def test_a_url_of_another_file_type_is_refused_before_the_download(url: str) -> None:
    error = refused(url, SHA256)
    assert isinstance(error, RefusedError)
    assert url in error.what


def cut(exchange: Exchange) -> None:
    exchange.head(200, {"Content-Length": len(CONTENT)})
    exchange.wfile.write(CONTENT[:5])


def test_a_truncated_body_is_unreachable_and_not_kept(site: FakeSite, cache: Path) -> None:
    site.pages[f"/{NAME}"] = cut
    error = refused(f"{site.url}/{NAME}")
    assert isinstance(error, UnreachableError)
    assert "cut off after 5 of" in error.why
    assert not files_in(cache)


@pytest.mark.parametrize(("status", "why"), [(404, "404 Not Found"), (503, "503 Service Unavailable")])
def test_an_http_error_is_unreachable_with_its_status(site: FakeSite, status: int, why: str) -> None:
    site.pages[f"/{NAME}"] = lambda exchange: exchange.reply(status)
    error = refused(f"{site.url}/{NAME}")
    assert isinstance(error, UnreachableError)
    assert why in error.why


def test_a_refused_connection_is_unreachable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        error = refused(f"http://127.0.0.1:{listener.getsockname()[1]}/{NAME}")
    assert isinstance(error, UnreachableError)
    assert "--model demo" in error.hint


def test_a_body_above_the_size_limit_is_refused(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_url, "MAX_BYTES", 10)
    assert "the limit is 10" in refused(f"{site.url}/{NAME}").why


def test_an_error_names_a_cache_that_cannot_be_created(site: FakeSite, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    error = refused(f"{site.url}/{NAME}")
    assert isinstance(error, OutputError)
    assert str(cache) in error.what


def test_a_very_long_file_name_is_shortened(site: FakeSite) -> None:
    name = f"{'x' * 300}-{SHA256[:8]}.pth"
    site.pages[f"/{name}"] = site.pages[f"/{NAME}"]
    assert weights_url.fetch(f"{site.url}/{name}", None, offline=False).read_bytes() == CONTENT


def test_a_model_is_loaded_from_a_url(site: FakeSite, tmp_path: Path) -> None:
    state = random_state(TINY)
    write_safetensors(tmp_path / "weights", to_format(state, TINY, "timm"), "float32")
    content = (tmp_path / "weights").read_bytes()
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    site.pages[f"/{name}"] = lambda exchange: exchange.reply(200, content)
    loaded = checkpoints.load(f"{site.url}/{name}")
    assert loaded.format == "timm"
    assert loaded.state.keys() == state.keys()
    assert all(np.array_equal(loaded.state[key], state[key]) for key in state)
