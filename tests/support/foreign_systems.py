"""Run code as on a system that lacks what POSIX provides.

A ``sitecustomize.py``, which Python imports at the start of each process, removes the modules and names that Windows
does not have. It also lets replacing and removing a file fail while the process has it open, as Windows does. Modules
of the standard library that were imported before keep what they have.
"""

import inspect
import os
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
posix_only = pytest.mark.skipif(os.name != "posix", reason="tests what only POSIX systems have")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="tests what only Linux has")

MODULES = ("resource", "fcntl", "termios", "pwd", "grp")
NAMES = {
    "os": (
        *("pread", "pwrite", "setxattr", "getxattr", "sched_getaffinity", "nice", "mkfifo", "getuid", "geteuid"),
        *("O_NOFOLLOW", "O_NONBLOCK"),
    ),
    "signal": ("SIGALRM", "setitimer", "SIGHUP", "SIGUSR1"),
    "select": ("poll",),
}
REMOVING = ("replace", "rename", "unlink", "remove")  # functions of ``os`` that Windows refuses for open files


def is_open(path: str) -> bool:
    """Return whether this process has a regular file open."""
    try:
        wanted = os.stat(path)
    except OSError:
        return False
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(descriptor))
        except OSError:  # the one that listdir used
            continue
        if stat.S_ISREG(found.st_mode) and os.path.samestat(found, wanted):
            return True
    return False


def refuse_open_files(call: Callable[..., Any], *paths: Any, **options: Any) -> Any:
    """Call a function of ``os`` unless one of its paths is open, as Windows does."""
    for path in paths:
        if is_open(path):
            raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
    return call(*paths, **options)


def refusing_open_files(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of ``os`` that refuses open files. A plain function would become a method in Python 3.10."""
    return partial(refuse_open_files, call)


WITHOUT_POSIX = f"""
import importlib, os, stat, sys
from collections.abc import Callable
from functools import partial
from typing import Any

class Removed:
    def find_spec(self, name, path=None, target=None):
        if name in {MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Removed())
for name in {MODULES!r}:
    sys.modules.pop(name, None)
for module, names in {NAMES!r}.items():
    for name in names:
        delattr(importlib.import_module(module), name)

{inspect.getsource(is_open)}
{inspect.getsource(refuse_open_files)}
{inspect.getsource(refusing_open_files)}
for name in {REMOVING!r}:
    setattr(os, name, refusing_open_files(getattr(os, name)))
"""


def without_posix(folder: Path, *more: str) -> dict[str, str]:
    """Write a ``sitecustomize`` into a new folder and return the environment variables that load it.

    Args:
        more: code that runs after the names are removed.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("".join((WITHOUT_POSIX, *more)), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
