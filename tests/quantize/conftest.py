"""An int8 model that NNCF made, as the command makes it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from levit_cli.system.extras import missing_package
from tests.support.binary import TIMEOUT_S, environment
from tests.support.int8 import write_noise

SCRIPT = """
import json, sys
from levit_cli.cli import app
try:
    app(prog_name="levit")
except SystemExit as stop:
    code = stop.code
json.dump({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}, open(MODULES, "w"))
"""


@dataclass(frozen=True)
class Quantized:
    """An int8 model, its images, and what the command wrote and imported.

    Args:
        home: the home folder of the process.
    """

    folder: Path
    data: Path
    home: Path
    stdout: str
    stderr: str
    modules: set[str]


@pytest.fixture(scope="session")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """The model of ``tiny_folder`` in int8. Its classes are random, so any drop of top-1 is allowed."""
    if missing_package("export"):
        pytest.skip("needs the extra 'export'")
    root = tmp_path_factory.mktemp("int8")
    data, home, folder, modules = write_noise(root / "data"), root / "home", root / "model", root / "modules.json"
    (data / "class 0" / "cut.png").write_bytes((data / "class 0" / "000.png").read_bytes()[:100])
    home.mkdir()
    script = f"MODULES = {str(modules)!r}\n{SCRIPT}"
    options = ("--data", data, "-o", folder, "--samples", "30", "--max-drop", "100")
    done = subprocess.run(
        [sys.executable, "-c", script, "quantize", *map(str, (tiny_folder, *options))],
        capture_output=True, env=environment(HOME=str(home)), timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    found = json.loads(modules.read_text()) if modules.exists() else {"code": "crash", "modules": []}
    assert found["code"] == 0, done.stderr.decode()
    return Quantized(folder, data, home, done.stdout.decode(), done.stderr.decode(), set(found["modules"]))
