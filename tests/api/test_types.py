"""A type checker sees the types of the API in a user's script."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
SCRIPT = """\
import levit_cli as levit
model = levit.load("levit-256", device="cpu", precision="fp32")
reveal_type(model("cat.jpg", top_k=3).top[0].prob)
reveal_type([prediction.error for prediction in model.predict(["a.jpg"], batch_size=16)])
reveal_type(model)
reveal_type(model.embed(["a.jpg", b"bytes"]).dtype)
reveal_type(model.labels[0])
reveal_type(model.to_torch().hidden_states)
levit.load("demo", device="gpu")
levit.nothing
"""
EXPECTED = (
    '3: note: Revealed type is "float"',
    '4: note: Revealed type is "list[levit_cli.errors.InputError | None]"',
    '5: note: Revealed type is "levit_cli.api.Classifier"',
    '6: note: Revealed type is "numpy.dtype[numpy.floating',
    '7: note: Revealed type is "str"',
    '8: note: Revealed type is "def (x: ',
    '9: error: Argument "device" to "load" has incompatible type',
    '10: error: Module has no attribute "nothing"',
)


def test_mypy_sees_the_types_of_a_script(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cache = pytestconfig.rootpath / ".mypy_cache" / "script"  # kept, because the first run takes 12 s
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", script.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    lines = [line.removeprefix("script.py:") for line in done.stdout.splitlines()]
    for line, expected in zip(lines, EXPECTED, strict=False):
        assert line.startswith(expected), done.stdout
    assert lines[len(EXPECTED) :] == ["Found 2 errors in 1 file (checked 1 source file)"], done.stdout
