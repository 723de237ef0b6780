"""What was measured on: words for the table, and the ``meta`` of the document."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from levit_cli import __version__

MEASURED_PACKAGES = ("openvino", "torch", "torchvision", "numpy")
ARM_NAMES = ("aarch64", "arm64")


def cpu_name() -> str:
    """The processor's model as it calls itself, or at least its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """System and architecture, without the host's name."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def device_name(device: str) -> str:
    """``cpu``, or the kind of device with the name that it has."""
    if device != "cuda":
        return device
    from levit_cli.engines.torch import gpu_name

    return f"{device} ({gpu_name()})"


def versions() -> dict[str, str]:
    """Of everything that speed depends on; what is not installed is left out."""
    found = {"levit": __version__, "python": platform.python_version()}
    for package in MEASURED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def paper_hardware(device: str) -> str:
    """Which of the paper's machines is of this device's kind; a key of ``paper.HARDWARE``."""
    if device != "cpu":
        return "v100"
    return "graviton2" if platform.machine().lower() in ARM_NAMES else "xeon"
