"""A missing extra is a usage error with the pip command; a broken package is refused."""

import sys

import pytest

from levit_cli.errors import ExitCode, LevitError
from levit_cli.system.extras import extra


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), ExitCode.USAGE, "is not installed"),
        (ModuleNotFoundError("No module named 'levit_x'", name="levit_x"), ExitCode.REFUSED, "levit_x"),
        (ImportError("libcudart.so: cannot open"), ExitCode.REFUSED, "libcudart.so: cannot open"),
        (OSError("libtorch.so: invalid ELF header"), ExitCode.REFUSED, "invalid ELF header"),
        (RuntimeError("operator torchvision::nms does not exist"), ExitCode.REFUSED, "nms does not exist"),
    ],
)
def test_a_failed_import_names_what_to_do(error: Exception, code: ExitCode, words: str) -> None:
    with pytest.raises(LevitError, match="Training needs") as caught, extra("torch", "Training"):
        raise error
    assert caught.value.exit_code == code
    assert words in str(caught.value)
    assert f"{sys.executable} -m pip install 'levit-cli[torch]'" in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), extra("plot", "The report"):
        raise KeyError("x")
