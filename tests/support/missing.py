"""Run commands as if packages were not installed."""

from pathlib import Path

from tests.support.binary import environment

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def environment_without(folder: Path, *packages: str, **changes: str) -> dict[str, str]:
    """Return an environment in which Python finds none of the packages.

    Args:
        folder: an existing folder, which gets a ``sitecustomize.py``.
    """
    (folder / "sitecustomize.py").write_text(HIDE.format(packages=packages), encoding="utf-8")
    return environment(PYTHONPATH=str(folder), **changes)
