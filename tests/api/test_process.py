"""The API in a process of its own: silent, without effects on the process, and with a normal exit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binary import environment
from tests.support.extras import hide_extra
from tests.support.fake_hub import FakeSite
from tests.support.sample_images import write_images

# What the API must leave alone. Third-party packages are imported first, because some of them set warning filters.
SETTINGS = """
import faulthandler, gc, json, locale, logging, os, random, signal, socket, sys, threading, warnings
import huggingface_hub, numpy, openvino, PIL.Image, PIL.ImageFile, PIL.PngImagePlugin, safetensors
try:
    import torch
except ImportError:
    torch = None

def settings():
    root = logging.getLogger()
    torch_settings = {} if torch is None else {
        "torch threads": torch.get_num_threads(), "torch random state": torch.get_rng_state().sum().item(),
        "torch grad": torch.is_grad_enabled(), "torch dtype": str(torch.get_default_dtype()),
        "torch compile cache": torch._dynamo.config.recompile_limit,
    }
    return torch_settings | {
        "pillow": [PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.ImageFile.MAXBLOCK,
                   PIL.PngImagePlugin.MAX_TEXT_CHUNK],
        "warnings": [str(filter) for filter in warnings.filters],
        "showwarning": repr(warnings.showwarning),
        "logging": [root.level, repr(root.handlers), root.manager.disable, logging.raiseExceptions],
        "loggers": {name: [logger.level, repr(logger.handlers), logger.disabled] for name, logger
                    in root.manager.loggerDict.items() if isinstance(logger, logging.Logger) and logger.level},
        "environ": dict(os.environ),
        "locale": locale.setlocale(locale.LC_ALL),
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook)],
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "cwd": os.getcwd(),
        "numpy": [numpy.geterr(), repr(numpy.get_printoptions()), repr(numpy.random.get_state()[2:])],
        "random": hash(random.getstate()),
        "paths": [sys.path, repr(sys.meta_path)],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()],
        "socket": socket.getdefaulttimeout(),
        "faulthandler": faulthandler.is_enabled(),
        "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "hidden modules": [name for name, module in sys.modules.items() if module is None],
    }
"""
USE = """
before = settings()
import levit_cli
assert settings() == before, "importing"
model = levit_cli.load("demo", **json.loads(sys.argv[1]))
changes = {name for name, value in settings().items() if value != before[name]}
assert not changes, (changes, "loading")
path = sys.argv[2]
model(path); model.embed([path, path]); list(model.predict([path, "missing.jpg"]))
if torch is not None:
    model.to_torch()
changes = {name for name, value in settings().items() if value != before[name]}
assert not changes, (changes, "using")
print("unchanged")
"""


def python(
    code: str, *arguments: str | Path, options: tuple[str, ...] = (), **variables: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *options, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, env=environment(**variables)
    )


def assert_silent(done: "subprocess.CompletedProcess[str]", printed: str = "") -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_loading_is_silent_when_warnings_are_errors() -> None:
    code = "import levit_cli; levit_cli.load('demo')"
    assert_silent(python(code, options=("-W", "error")))
    assert_silent(python(code, options=("-X", "dev", "-W", "error")))


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = {*sys.modules}; import levit_cli; print(*sorted({*sys.modules} - before))"
    done = python(code, options=("-S",), PYTHONPATH=str(Path(__file__).parents[2] / "src"))
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= {"levit_cli", *sys.stdlib_module_names}, done.stderr
    assert "levit_cli.api" not in done.stdout.split()


def test_the_names_of_the_api_can_be_listed_and_imported() -> None:
    code = (
        "import levit_cli\n"
        "from levit_cli import *\n"
        "assert {*levit_cli.__all__} <= {*dir(levit_cli)}\n"
        "print(load.__module__, InputError.__module__, hasattr(levit_cli, 'nothing'))"
    )
    assert_silent(python(code), "levit_cli.api levit_cli.errors False\n")


@pytest.mark.guarantee("api-no-side-effects")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 1, "precision": "fp32", "decode": "fast"},
        {"engine": "torch"},
        {"engine": "torch", "preprocessing": "hf-tensor"},
    ],
    ids=str,
)
def test_using_the_api_changes_no_setting_of_the_process(tmp_path: Path, options: dict[str, str]) -> None:
    if "engine" in options:
        pytest.importorskip("torch")
    (path,) = write_images(tmp_path, 1)
    assert_silent(python(SETTINGS + USE, json.dumps(options), path), "unchanged\n")


def test_loading_from_the_hub_changes_no_environment_variable(site: FakeSite, tmp_path: Path) -> None:
    code = (
        "import os; before = dict(os.environ); import levit_cli\n"
        "try: levit_cli.load('levit-128S')\n"
        "except levit_cli.UnreachableError: print(dict(os.environ) == before)"
    )
    done = python(code, HF_HUB_OFFLINE="0", HF_ENDPOINT=site.url, HF_HOME=str(tmp_path), NO_PROXY="127.0.0.1")
    assert_silent(done, "True\n")


@pytest.mark.guarantee("api-normal-exit")
@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "del model; import gc; gc.collect()",
        "import threading; t = threading.Thread(target=globals().pop, args=('model',)); t.start(); t.join()",
        "stream = model.predict([path] * 1000); next(stream)",
        "stream = model.predict(iter(lambda: path, None), 2); next(stream); del model",
        "sys.exit(0)",
        "import gc; gc.disable(); model.me = model",
    ],
)
def test_a_script_exits_normally(tmp_path: Path, end: str) -> None:
    (path,) = write_images(tmp_path, 1)
    code = (
        "import sys, levit_cli\npath = sys.argv[1]\nmodel = levit_cli.load('demo')\n"
        f"print(len(model(path).top), len([*model.predict([path] * 20)]), model.embed([path] * 3).shape)\n{end}\n"
    )
    assert_silent(python(code, path, options=("-W", "error", "-X", "faulthandler")), "5 20 (3, 256)\n")


def test_openvinos_converter_can_be_imported_afterwards() -> None:
    code = "import levit_cli; levit_cli.load('demo'); import openvino; print(openvino.convert_model.__name__)"
    done = python(code, HOME="/nonexistent", CI="1")
    assert (done.returncode, done.stdout) == (0, "convert_model\n"), done.stderr


def test_without_torch_everything_else_works(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    code = (
        "import sys, levit_cli\nmodel = levit_cli.load('demo')\npath = sys.argv[1]\n"
        "print(len(model(path).top), len([*model.predict([path] * 3)]), model.embed([path]).shape)\n"
        "for call in (model.to_torch, lambda: levit_cli.load('demo', engine='torch'),\n"
        "             lambda: levit_cli.load('demo', preprocessing='hf-tensor', engine='torch')):\n"
        "    try: call()\n"
        "    except levit_cli.UsageError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = python(code, path, PYTHONPATH=hide_extra("torch", tmp_path / "hidden")["PYTHONPATH"])
    assert (done.returncode, done.stderr) == (0, "")
    first, *messages, torch_is_loaded = done.stdout.splitlines()
    assert first == "5 3 (1, 256)"
    missing = f"needs the extra 'torch' · the package torch is not installed · {sys.executable} -m pip install"
    assert [message.partition(" 'levit-cli[torch]'")[0] for message in messages] == [
        f"to_torch() {missing}",
        f"The torch engine {missing}",
        f"The preprocessing hf-tensor {missing}",
    ]
    assert torch_is_loaded == "False"
