"""Fixtures for all tests. They keep the network and the user's settings out."""

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import pytest
from hypothesis import settings

import levit_cli
from levit_cli.system.extras import PACKAGES
from tests.support.fake_hub import FakeSite, running
from tests.support.random_weights import write_folder

PACKAGE = Path(levit_cli.__file__).parent
TORCH_HOMES = (
    *("finetune", "engines/torch.py", "engines/torch_compile.py", "engines/cuda_graphs.py"),
    *(
        "engines/openvino_converter.py",
        "model/levit.py",
        "images/resize_torch.py",
        "bench/baselines.py",
        "bench/jit.py",
    ),
    *("bench/baselines.py", "bench/jit.py", "system/plotting.py", "eval/report.py", "probe/regression.py"),
)
OPTIONAL = {*PACKAGES["torch"], *PACKAGES["plot"], *PACKAGES["probe"], "onnx", "timm", "torchmetrics", "transformers"}

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guarantee(*names): tests the rows of docs/guarantees.md with these names")
    config.addinivalue_line("markers", "exhaustive: runs in `make test-all`, not in `make test`")
    config.addinivalue_line("markers", "without_extra: a test in tests/serve that does not need the extra 'serve'")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and is skipped without one; `make gpu` runs these")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited from a background shell
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Module(pytest.Module):
    """A test module. It is skipped if its imports fail because an optional package is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if isinstance(cause := error.__cause__, ModuleNotFoundError) and _may_be_missing(cause):
                pytest.skip(f"needs the package {cause.name}", allow_module_level=True)
            raise


def _may_be_missing(error: ModuleNotFoundError) -> bool:
    """Whether a test or one of the modules that may use torch imports the package. The core must not need it."""
    source = _innermost_file(error.__traceback__)
    is_ours = source.is_relative_to(PACKAGE) and not any(source.is_relative_to(PACKAGE / home) for home in TORCH_HOMES)
    return (error.name or "").partition(".")[0] in OPTIONAL and not is_ours


def _innermost_file(traceback: TracebackType | None) -> Path:
    source = ""
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        source, traceback = source if name.startswith("<frozen") else name, traceback.tb_next
    return Path(source)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    module: pytest.Module = Module.from_parent(parent, path=module_path)
    return module


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
