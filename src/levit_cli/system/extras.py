"""Import the packages of an optional extra, or report how to install it.

The core install holds no torch and no matplotlib. A command that needs one of them imports it inside ``extra``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from levit_cli.errors import LevitError, RefusedError, UsageError

PACKAGES = {
    "torch": ("torch", "torchvision"),
    "plot": ("matplotlib", "jinja2"),
    "export": ("nncf", "onnx", "onnxruntime"),
    "parquet": ("pyarrow",),
    "remote": ("fsspec", "s3fs"),
    "jxl": ("pillow_jxl",),
    "probe": ("sklearn",),
    "serve": ("httptools", "python_multipart"),
    "tensorboard": ("tensorboard",),
    "ray": ("ray", "pandas", "pyarrow"),
}


def pip_command(name: str) -> str:
    """Return the command that installs an extra for the running interpreter."""
    return pip_install(f"'levit-cli[{name}]'")


def pip_install(packages: str) -> str:
    """Return the command that installs packages, which are quoted for a shell, for the running interpreter."""
    import shlex  # imported here because predictions import this module, but seldom call it

    return f"{shlex.quote(sys.executable)} -m pip install {packages}"


def reinstall_command(package: str) -> str:
    """Return the command that installs a package of the core again, such as one that was built without a decoder."""
    return pip_install(f"--force-reinstall {package}")


def missing_package(name: str) -> str | None:
    """Return the first package of an extra that is not installed, or None. Nothing is imported."""
    return next((package for package in PACKAGES[name] if not is_installed(package)), None)


def is_installed(package: str) -> bool:
    """Whether a package can be found. It is not imported."""
    import importlib.util

    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: a module without a spec
        return package in sys.modules


def require_extra(name: str, what: str, *, otherwise: str = "") -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        name: the extra, a key of ``PACKAGES``.
        what: what needs the extra, as the subject of a sentence, such as "Training".
        otherwise: what the user can do without the extra.

    Raises:
        UsageError: a package of the extra is not installed.
    """
    if package := missing_package(name):
        raise UsageError(
            f"{what} needs the extra {name!r}",
            why=f"the package {package} is not installed",
            hint=", or ".join(filter(None, (pip_command(name), otherwise))),
        )


@contextmanager
def extra(name: str, what: str, *, otherwise: str = "") -> Iterator[None]:
    """Convert errors of the imports inside the block to errors that name the extra. Arguments as ``require_extra``.

    Raises:
        UsageError: a package of the extra is not installed.
        RefusedError: the packages are installed, but an import fails.
    """
    require_extra(name, what, otherwise=otherwise)
    with import_errors(name, what, otherwise=otherwise):
        yield


@contextmanager
def import_errors(name: str, what: str, *, otherwise: str = "") -> Iterator[None]:
    """As ``extra``, for packages that are known to be installed.

    Raises:
        RefusedError: an import fails.
    """
    try:
        yield
    except LevitError:
        raise
    except Exception as error:  # RuntimeError: torchvision was built for another torch; a broken package raises any
        reinstall = f"reinstall the packages: {pip_command(name)} --force-reinstall"
        raise RefusedError(
            f"{what} needs {' and '.join(PACKAGES[name][:2])}, which cannot be imported",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0][:200],
            hint=", or ".join(filter(None, (reinstall, otherwise))),
        ) from error
