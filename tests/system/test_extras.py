"""A missing extra is a usage error with the pip command; a broken package is refused."""

import sys

import pytest

from levit_cli.errors import OutputError, RefusedError, UsageError
from levit_cli.system import extras
from levit_cli.system.extras import extra, missing_package, require_extra

PIP = f"{sys.executable} -m pip install 'levit-cli[some]'"


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.PACKAGES, "some", ("json", "numpy"))


def test_a_missing_package_is_a_usage_error_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.PACKAGES, "some", ("json", "levit_missing"))
    assert missing_package("some") == "levit_missing"
    with pytest.raises(UsageError) as caught, extra("some", "Training", otherwise="use a pencil"):
        pytest.fail("the block runs")
    assert str(caught.value) == (
        "Training needs the extra 'some' · the package levit_missing is not installed · " + PIP + ", or use a pencil"
    )


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'sympy'"),
        ImportError("libcudart.so: cannot open"),
        OSError("libtorch.so: invalid ELF header"),
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("partially initialized module 'torchvision'"),
        ValueError("numpy.dtype size changed, may indicate binary incompatibility"),
        SyntaxError("invalid syntax"),
    ],
)
def test_a_broken_package_is_refused(error: Exception) -> None:
    require_extra("some", "Training")
    with pytest.raises(RefusedError, match="Training needs json and numpy") as caught, extra("some", "Training"):
        raise error
    assert str(error) in str(caught.value)
    assert PIP in str(caught.value)


def test_an_error_that_names_its_cause_passes() -> None:
    with pytest.raises(OutputError, match="disk full"), extra("some", "The report"):
        raise OutputError("disk full")
