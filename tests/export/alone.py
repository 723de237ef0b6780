"""Run the script of an exported model in a new environment that holds NumPy, Pillow and one runtime.

python -m tests.export.alone [--to onnx openvino] [--runtime onnxruntime==1.20.1]

The demo model is exported with this environment. The records of its script must equal those of ``levit predict``. The
packages come from pip's index.
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

from levit_cli.choices import ExportTarget
from tests.export.test_script import AS_EXPORTED, assert_same_records, image_files
from tests.support.binary import environment, installed_levit, records

ROOT = Path(__file__).parent.parent.parent
RUNTIMES: dict[ExportTarget, str] = {"onnx": "onnxruntime", "openvino": "openvino"}


def bare_environment(folder: Path, *packages: str) -> Path:
    """Create an environment with these packages and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "numpy", "pillow", *packages], check=True)
    listed = subprocess.run([*pip, "list"], check=True, capture_output=True, text=True).stdout
    installed = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert installed.isdisjoint({"torch", "levit-cli", "transformers", "timm"}), installed
    return python


def check(target: ExportTarget, runtime: str, folder: Path) -> None:
    """Export the demo model and compare the records of both programs."""
    exported = folder / f"demo-{target}"
    done = installed_levit("export", "demo", "-o", exported, "--to", target)
    assert done.returncode == 0, done.stderr
    paths = [ROOT / "examples" / "cat.jpg", *image_files(folder / f"images-{target}"), folder / "missing.jpg"]
    python = bare_environment(folder / f"venv-{target}", runtime)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    script = subprocess.run([python, exported / "predict.py", *paths], stdout=subprocess.PIPE, env=outside, check=False)
    assert script.returncode == 1, "some of the files are damaged"
    listed = "".join(f"{path}\n" for path in paths).encode()
    command = ("predict", "-m", "demo", "--files-from", "-", *AS_EXPORTED, "-f", "jsonl", "-q")
    expected = records(installed_levit(*command, stdin=listed, env=environment()).stdout)
    assert_same_records(records(script.stdout), expected)
    print(f"{runtime}: {len(paths)} records are equal to those of levit predict")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", nargs="+", default=[*RUNTIMES], choices=[*RUNTIMES], help="targets")
    parser.add_argument("--runtime", help="requirement of the runtime's package, such as a certain version")
    options = parser.parse_args()
    for target in options.to:
        with TemporaryDirectory() as folder:
            check(target, options.runtime or RUNTIMES[target], Path(folder))


if __name__ == "__main__":
    main()
