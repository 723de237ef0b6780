"""A pickle that imports more than tensors is refused with the names of its imports, and none of its code runs."""

import argparse
import functools
import io
import operator
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints.pickles import unsafe_imports
from levit_cli.checkpoints.weights import read_weights
from levit_cli.errors import ExitCode, RefusedError

torch = pytest.importorskip("torch")


class Call:
    """Pickles as a function call, which runs when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


Attack = Callable[[str], Any]  # path of a file that must not be created -> an object that creates it
ATTACKS: dict[str, Attack] = {
    "posix.system": lambda canary: Call(os.system, f"touch {canary}"),
    "posix.mkdir": lambda canary: Call(os.mkdir, canary),
    "subprocess.Popen": lambda canary: Call(subprocess.Popen, ["touch", canary]),
    "builtins.eval": lambda canary: Call(eval, f"open({canary!r}, 'w')"),
    "builtins.exec": lambda canary: Call(exec, f"open({canary!r}, 'w')"),
    "builtins.__import__": lambda canary: Call(__import__, "antigravity"),
    "builtins.getattr": lambda canary: Call(getattr, canary, "upper"),
    "io.open": lambda canary: Call(open, canary, "w"),
    "functools.partial": lambda canary: Call(functools.partial(os.mkdir, canary)),
    "operator.attrgetter": lambda canary: Call(operator.attrgetter("system"), 1),
    "torch.hub.load": lambda canary: Call(torch.hub.load, "owner/name", "model"),
    "torch.serialization.load": lambda canary: Call(torch.load, canary),
    "torch.serialization.save": lambda canary: Call(torch.save, 1, canary),
    "torch.serialization.add_safe_globals": lambda canary: Call(torch.serialization.add_safe_globals, [os.system]),
    "torch.jit._serialization.load": lambda canary: Call(torch.jit.load, canary),
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the start of a file written by torch before 1.6


def zip_around(data: bytes) -> bytes:
    """Wrap a handmade data.pkl in the archive layout of torch."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def torch_saved(content: Any, *, in_zip: bool, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=in_zip, pickle_protocol=protocol)
    return stream.getvalue()


WRAPPERS: dict[str, Callable[[Any], bytes]] = {
    "zip": lambda evil: torch_saved(evil, in_zip=True),
    "zip, STACK_GLOBAL": lambda evil: torch_saved(evil, in_zip=True, protocol=4),
    "zip, in the state dict": lambda evil: torch_saved({"model": {"a": torch.ones(2), "b": evil}}, in_zip=True),
    "zip, next to the state dict": lambda evil: torch_saved(
        {"args": [evil], "model": {"a": torch.ones(2)}}, in_zip=True
    ),
    "legacy": lambda evil: torch_saved(evil, in_zip=False),
    "legacy, in the state dict": lambda evil: torch_saved({"a": torch.ones(2), "b": evil}, in_zip=False),
    "legacy, in its first pickle": lambda evil: pickle.dumps(evil, 2) + pickle.dumps(PROTOCOL, 2),
    "legacy, third pickle": lambda evil: pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL, 2) + pickle.dumps(evil, 2),
    **{f"plain, protocol {protocol}": functools.partial(pickle.dumps, protocol=protocol) for protocol in range(6)},
    "handmade data.pkl": lambda evil: zip_around(pickle.dumps({"a": evil}, 5)),
    "broken after the call": lambda evil: zip_around(pickle.dumps(evil, 2)[:-1] + b"\xff" * 20),
    "in a Namespace": lambda evil: torch_saved({"model": {}, "args": argparse.Namespace(resume=evil)}, in_zip=True),
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.guarantee("malicious-pickle")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_pickle_is_refused_by_name_and_does_not_run(
    tmp_path: Path, canary: Path, name: str, wrapper: str
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(WRAPPERS[wrapper](ATTACKS[name](str(canary))))
    modules = set(sys.modules)
    with pytest.raises(RefusedError) as caught:
        read_weights(path)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert str(path) in caught.value.what
    assert name in caught.value.why
    assert "none of its code was run" in caught.value.hint
    assert not canary.exists()
    assert "antigravity" not in sys.modules.keys() - modules


def test_an_attack_succeeds_with_an_unprotected_loader(tmp_path: Path, canary: Path) -> None:
    """Without protection, an attack of the table succeeds. Otherwise the other tests would show nothing."""
    pickle.loads(pickle.dumps(ATTACKS["posix.mkdir"](str(canary))))
    assert canary.is_dir()


OPCODES = {
    "GLOBAL": b"cposix\nsystem\n(S'touch CANARY'\ntR.",
    "INST": b"(S'touch CANARY'\niposix\nsystem\n.",
    "GLOBAL of Python 2": b"c__builtin__\neval\n(S'touch CANARY'\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
    "STACK_GLOBAL by the memo": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x0ctouch CANARY\x85R.",
    "STACK_GLOBAL by numbered memo": b"\x80\x04X\x05\x00\x00\x00posixq\x07X\x06\x00\x00\x00systemq\x09h\x07h\x09\x93.",
    "OBJ": b"(cposix\nsystem\nS'touch CANARY'\no.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n]X\x05\x00\x00\x00touchaX\x06\x00\x00\x00CANARYa\x85\x81.",
    "BUILD": b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00acposix\nsystem\nsb.",
}


@pytest.mark.guarantee("malicious-pickle")
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "plain"])
@pytest.mark.parametrize("opcode", OPCODES)
def test_the_import_of_every_opcode_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcode: str, in_zip: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    path.write_bytes(zip_around(OPCODES[opcode]) if in_zip else OPCODES[opcode])
    with pytest.raises(RefusedError, match=r"it would import (posix\.system|builtins\.eval|subprocess\.Popen)"):
        read_weights(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(output_dir=Path("runs"))}, "pathlib.PosixPath"),
        ({"model": {"a": torch.ones(2)}, "best": torch.ones(1).numpy()[0]}, "numpy._core.multiarray.scalar"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_harmless_extra_objects_are_refused(tmp_path: Path, content: Any, reason: str) -> None:
    (tmp_path / "a.pth").write_bytes(torch_saved(content, in_zip=True))
    with pytest.raises(RefusedError, match=r"holds more than weights") as caught:
        read_weights(tmp_path / "a.pth")
    assert reason in caught.value.why


@pytest.mark.parametrize("protocol", [4, 5])
def test_weights_in_a_newer_pickle_protocol_are_refused_with_a_hint(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pth").write_bytes(torch_saved({"a": torch.ones(2)}, in_zip=True, protocol=protocol))
    with pytest.raises(RefusedError, match=r"FRAME, which torch\.save does not write · save it with the default"):
        read_weights(tmp_path / "a.pth")


def test_at_most_five_imports_are_shown(tmp_path: Path) -> None:
    attacks = [ATTACKS[name]("canary") for name in sorted(ATTACKS)[:8]]
    (tmp_path / "a.pth").write_bytes(pickle.dumps(attacks))
    with pytest.raises(RefusedError) as caught:
        read_weights(tmp_path / "a.pth")
    assert caught.value.why.count(",") == 4
    assert caught.value.why.endswith(" …")


def pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(3)},
        {"model": {"a": torch.nn.Parameter(torch.ones(2))}, "args": argparse.Namespace(lr=1e-3, seed=None)},
        torch.nn.Linear(2, 2).state_dict(),
    ],
)
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_tensors_and_training_arguments_have_no_unsafe_imports(tmp_path: Path, content: Any, in_zip: bool) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(torch_saved(content, in_zip=in_zip))
    assert unsafe_imports(pickle_of(path)) == []
    read_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"c",
        b"cmodule\n",
        b"class Weights:\n    pass\n",
        b"\x80\x04\x93.",
        b"PK\3\4garbage",
        b"c\\/\nx\n.",
        bytes(1000),
    ],
)
def test_files_that_are_not_pickles_have_no_unsafe_imports(content: bytes) -> None:
    assert unsafe_imports(content) == []


@pytest.mark.guarantee("unsupported-archive")
def test_a_zip_bomb_is_refused_before_unpacking(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    with pytest.raises(RefusedError, match=r"unpack to 100,000,000"):
        read_weights(tmp_path / "bomb.pth")
