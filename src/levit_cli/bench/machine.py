"""Describe the machine and the software of a run, for the table and for ``meta`` in the JSON document."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from levit_cli import __version__

MEASURED_PACKAGES = ("openvino", "torch", "torchvision", "numpy")
ARM_NAMES = ("aarch64", "arm64")


def cpu_name() -> str:
    """Return the model name of the CPU, or its architecture if the name is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Return operating system and architecture, without the host name."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def device_name(device: str) -> str:
    """Return the device; for a GPU of CUDA with its model name."""
    if device != "cuda":
        return device
    from levit_cli.engines.torch import gpu_name

    return f"{device} ({gpu_name()})"


def versions() -> dict[str, str]:
    """Return the versions of levit, Python and the installed packages that affect speed."""
    installed = {"levit": __version__, "python": platform.python_version()}
    for package in MEASURED_PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def paper_hardware(device: str) -> str:
    """Return the paper's machine that is most like this one, as a key of ``paper.HARDWARE``."""
    if device != "cpu":
        return "v100"
    return "graviton2" if platform.machine().lower() in ARM_NAMES else "xeon"
