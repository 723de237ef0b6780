"""Fixtures for all tests. They keep the network and the user's settings out."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.fake_hub import FakeSite, running
from tests.support.random_weights import write_folder

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guarantee(*names): tests the rows of docs/guarantees.md with these names")
    config.addinivalue_line("markers", "exhaustive: runs in `make test-all`, not in `make test`")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited from a background shell
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset levit's variables and go offline. Tests of the hub start their own server and override this."""
    for name in ("LEVIT_MODEL", "LEVIT_DEVICE", "LEVIT_ENGINE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a TINY model of random weights, seven classes, 64 x 64 pixels."""
    return write_folder(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeSite]:
    """A web server on 127.0.0.1."""
    with running(FakeSite()) as site:
        yield site


@pytest.fixture
def site(server: FakeSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    """The web server without pages; it is reset after each test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.reset()
