"""Run commands as on a system that lacks what POSIX provides.

A ``sitecustomize.py``, which Python imports at the start of each process, removes the modules and names that Windows
does not have, and lets replacing and removing a file fail while the process has it open, as it does there. Modules of
the standard library that were imported before keep what they imported.
"""

import os
import sys
from pathlib import Path

import pytest

IS_POSIX = os.name == "posix"
IS_ROOT = IS_POSIX and os.geteuid() == 0
posix_only = pytest.mark.skipif(not IS_POSIX, reason="tests what only POSIX systems provide")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="tests what only Linux provides")

MODULES = ("resource", "fcntl", "termios", "pwd", "grp")
NAMES = {
    "os": (
        *("pread", "pwrite", "setxattr", "getxattr", "sched_getaffinity", "nice", "mkfifo", "getuid", "geteuid"),
        *("O_NOFOLLOW", "O_NONBLOCK"),
    ),
    "signal": ("SIGALRM", "setitimer", "SIGHUP", "SIGUSR1"),
    "select": ("poll",),
}

WITHOUT_POSIX = f"""
import importlib, sys

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
"""

OPEN_FILES_ARE_KEPT = """
import os, stat

def is_open(path):
    try:
        wanted = os.stat(path)
    except OSError:
        return False
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
        except OSError:  # the descriptor that listdir used
            continue
        if stat.S_ISREG(found.st_mode) and os.path.samestat(found, wanted):
            return True
    return False

def refusing(call):
    def refuse(*paths, **options):
        for path in paths:
            if is_open(path):
                raise PermissionError(13, "it is open", path)
        return call(*paths, **options)
    return refuse

for name in ("replace", "rename", "unlink", "remove"):
    setattr(os, name, refusing(getattr(os, name)))
"""


def without_posix(folder: Path, *more: str) -> dict[str, str]:
    """Write the modules into a new folder and return the environment variables that load them.

    Args:
        more: code of another ``sitecustomize`` that runs first.
    """
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text("".join((*more, WITHOUT_POSIX, OPEN_FILES_ARE_KEPT)), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
