"""Fixtures for all tests: no network, no cache of the user's, images and models made here."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from levit_cli.checkpoints import load, save
from levit_cli.checkpoints.save import to_format
from tests.support.fake_hub import FakeSite, running
from tests.support.random_weights import TINY, random_state

settings.register_profile("steady", deadline=None, derandomize=True)  # no failure that is the machine's, or of one run
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guarantee(*names): shows the rows of docs/guarantees.md with these names")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as behind a shell, and inherited
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that need a hub start their own and override this."""
    for name in ("LEVIT_MODEL", "LEVIT_DEVICE", "LEVIT_ENGINE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a TINY model of random weights, seven classes, 64 x 64 pixels."""
    from levit_cli.checkpoints.weights import write_safetensors

    folder = tmp_path_factory.mktemp("tiny")
    bare = folder / "bare.safetensors"
    write_safetensors(bare, to_format(random_state(TINY), TINY, "timm"), "float32")
    save(load(bare, preprocessing="hf"), folder / "hf", "hf")
    return folder / "hf"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeSite]:
    """A web server on 127.0.0.1."""
    with running(FakeSite()) as site:
        yield site


@pytest.fixture
def site(server: FakeSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    """The server, as new for each test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.reset()
