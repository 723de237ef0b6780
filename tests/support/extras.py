"""Extras in tests: skip what needs one that is missing, and hide the packages of one that is installed."""

import re
import sys
from pathlib import Path

import pytest

from levit_cli.system.extras import PACKAGES, missing_package

needs_torch = pytest.mark.skipif(missing_package("torch") is not None, reason="needs the extra 'torch'")
needs_jxl = pytest.mark.skipif(missing_package("jxl") is not None, reason="needs the extra 'jxl'")
needs_export = pytest.mark.skipif(missing_package("export") is not None, reason="needs the extra 'export'")
needs_plot = pytest.mark.skipif(missing_package("plot") is not None, reason="needs the extra 'plot'")
needs_parquet = pytest.mark.skipif(missing_package("parquet") is not None, reason="needs the extra 'parquet'")
needs_remote = pytest.mark.skipif(missing_package("remote") is not None, reason="needs the extra 'remote'")
needs_probe = pytest.mark.skipif(missing_package("probe") is not None, reason="needs the extra 'probe'")
needs_serve = pytest.mark.skipif(missing_package("serve") is not None, reason="needs the extra 'serve'")
needs_tensorboard = pytest.mark.skipif(
    missing_package("tensorboard") is not None, reason="needs the extra 'tensorboard'"
)
needs_ray = pytest.mark.skipif(missing_package("ray") is not None, reason="needs the extra 'ray'")

FINDER = """
import sys

class Hidden:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden)
"""


def hide_extra(name: str, folder: Path) -> dict[str, str]:
    """Return the environment variables with which a process does not find the packages of an extra.

    Args:
        folder: a folder for the module that hides them.
    """
    return hide_packages(PACKAGES[name], folder)


def hide_packages(packages: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Return the environment variables with which a process does not find some packages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(FINDER.format(packages=packages))
    return {"PYTHONPATH": str(folder)}


def names_pip_command(text: str, name: str) -> bool:
    """Whether a message names the command that installs an extra, with an interpreter of this environment."""
    command = re.search(rf"(\S+) -m pip install 'levit-cli\[{name}\]'", text)
    return command is not None and Path(command[1]).parent == Path(sys.executable).parent
