"""Import the packages of an optional extra, or report how to install it.

The core install holds no torch and no matplotlib. A command that needs one of them imports it inside ``extra``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from levit_cli.errors import RefusedError, UsageError

PACKAGES = {
    "torch": ("torch", "torchvision", "pydantic"),
    "plot": ("matplotlib", "jinja2"),
}


def is_missing(error: ImportError, name: str) -> bool:
    """Return True if an import failed because a package of the extra ``name`` is not installed."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "") in PACKAGES[name]


def pip_command(name: str) -> str:
    """Return the command that installs an extra for the running interpreter."""
    return f"{sys.executable} -m pip install 'levit-cli[{name}]'"


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Convert errors of the imports inside the block to errors that name the extra.

    Args:
        name: the extra, a key of ``PACKAGES``.
        what: what needs the extra, in words, as the subject of a sentence: "Training".

    Raises:
        UsageError: a package of the extra is not installed.
        RefusedError: a package is installed, but its import fails.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        if isinstance(error, ImportError) and is_missing(error, name):
            why = f"the package {error.name} is not installed"
            raise UsageError(f"{what} needs the extra '{name}'", why=why, hint=pip_command(name)) from error
        raise RefusedError(
            f"{what} needs {' and '.join(PACKAGES[name][:2])}, but they cannot be imported",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint=f"reinstall them: {pip_command(name)} --force-reinstall",
        ) from error
