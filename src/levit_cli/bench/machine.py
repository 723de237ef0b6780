"""Describe the machine and the software of a run, for the table and for ``meta`` in the JSON document."""

import platform
from importlib.metadata import PackageNotFoundError, version

from levit_cli import __version__

MEASURED_PACKAGES = ("openvino", "torch", "torchvision", "numpy")
ARM_NAMES = ("aarch64", "arm64")


def machine_name() -> str:
    """Return operating system and architecture, without the host name."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def device_name(device: str) -> str:
    """Return the device, followed by its model name if it is a CUDA GPU."""
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
    """Return the machine of the paper that is most similar to this one, as a key of ``paper.HARDWARE``."""
    if device != "cpu":
        return "v100"
    return "graviton2" if platform.machine().lower() in ARM_NAMES else "xeon"
