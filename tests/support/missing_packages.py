"""Run a Python process as if packages were not installed."""

from pathlib import Path

SITECUSTOMIZE = """
import sys

class _Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, _Missing())
"""


def folder_without(folder: Path, *names: str) -> str:
    """Write a ``sitecustomize`` that hides packages, and return its folder for ``PYTHONPATH``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(names=set(names)))
    return str(folder)
