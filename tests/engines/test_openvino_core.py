"""Effects of OpenVINO on signals in its process."""

import subprocess
import sys
from pathlib import Path

import pytest

ENGINES = """
import gc, os, signal, sys, threading
import numpy as np
from pathlib import Path
from levit_cli.checkpoints import load
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.finetune.onnx_teacher import OnnxNetwork
import openvino as ov
from openvino import opset15 as opset

pixels = opset.parameter([-1, 3, 8, 8], np.float32)
ov.save_model(ov.Model([opset.reduce_mean(pixels, [2, 3], False)], [pixels]), "network.xml")
engines = [make_engine(load("demo"), EngineSpec()), OnnxNetwork(Path("network.xml"), 1)]
"""
SAME_THREAD = "while engines:\n    engines.pop(0)\n    gc.collect()\n"
OTHER_THREAD = "thread = threading.Thread(target=engines.clear)\nthread.start()\nthread.join()\ngc.collect()\n"
SEND_SIGNAL = """
signal.signal(signal.SIGUSR1, lambda *_: print("arrived"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("end", [SAME_THREAD, OTHER_THREAD], ids=["same thread", "other thread"])
def test_signals_are_handled_after_engines_are_destroyed(tmp_path: Path, end: str) -> None:
    """OpenVINO's CPU plugin can leave a signal stack set after unmapping it, which caused a SIGSEGV in 2026.4."""
    script = ENGINES + end + SEND_SIGNAL
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"arrived\n"), done.stderr.decode()
