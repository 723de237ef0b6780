"""Zip archives of ``torch.save`` are read without torch; what is not a plain state dict is refused with its cause.

The archives are written opcode by opcode, so that these tests need no torch.
"""

import copyreg
import json
import os
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from levit_cli.checkpoints import load
from levit_cli.checkpoints.pickled_values import FUNCTIONS, NAMES, InvalidPickleError, OtherKey
from levit_cli.checkpoints.unpickle import HANDLERS, MAX_OPCODES, _Machine, unpickle
from levit_cli.checkpoints.weights import read_weights, write_safetensors
from levit_cli.errors import ExitCode, LevitError, RefusedError, UsageError
from tests.support.checkpoint_files import arrays_of
from tests.support.fake_hub import FakeHub, running
from tests.support.random_weights import TINY, random_state
from tests.support.torch_archive import (
    Call,
    Name,
    Namespace,
    Persistent,
    Stored,
    archive_of,
    encode,
    stored,
    write_archive,
    zip_of,
)

Array = NDArray[Any]
ORDERED_DICT = Name("collections", "OrderedDict")
REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
FLOATS = Persistent("storage", Name("torch", "FloatStorage"), "0", "cpu", 2)
HOOKS = Call(ORDERED_DICT, ())
MIB = 1 << 20
NO_BUFFERS: Any = None  # for pickles that are not read to their end


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        read_weights(path)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert str(path) in str(caught.value)
    return str(caught.value)


def of_pickle(data: bytes, entries: dict[str, bytes] | None = None) -> bytes:
    """Return an archive with this pickle and one storage of two floats."""
    storage = np.arange(2, dtype=np.float32).tobytes()
    return zip_of({"a/data.pkl": data, "a/data/0": storage, "a/version": b"3\n", **(entries or {})})


def refusal_of(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "a.pth").write_bytes(content)
    return refusal(tmp_path / "a.pth")


# --- weights


ROWS: list[Array] = [
    np.array([[1.5, -2.0], [np.nan, np.inf]], np.float32),
    np.array([1e-310, 1e308], np.float64),
    np.array([6e-8, 65504], np.float16),
    np.array(-(1 << 63), np.int64),
    np.array([[1, -1]], np.int32),
    np.array([-300, 300], np.int16),
    np.array([-128, 127], np.int8),
    np.array([0, 255], np.uint8),
    np.array([0, 65535], np.uint16),
    np.array([0, (1 << 32) - 1], np.uint32),
    np.array([0, (1 << 64) - 1], np.uint64),
    np.array([True, False]),
    np.zeros((0, 3), np.float32),
]


@pytest.mark.guarantee("torch-equality")
@pytest.mark.parametrize("order", ["little", None], ids=["with byte order", "as before torch 2.1"])
@pytest.mark.parametrize("array", ROWS, ids=lambda array: str(array.dtype))
def test_an_array_of_every_type_is_read(tmp_path: Path, array: Array, order: str | None) -> None:
    path = write_archive(tmp_path / "a.pth", {"a": array}, order=order)
    np.testing.assert_array_equal(read_weights(path).arrays["a"], array, strict=True)


@pytest.mark.guarantee("torch-equality")
def test_bfloat16_becomes_the_same_float32(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x7FC1, 0x0001], np.uint16)
    weights = read_weights(write_archive(tmp_path / "a.pth", {"a": stored(bits, "bfloat16")}))
    assert (weights.arrays["a"].view(np.uint32) >> 16).tolist() == bits.tolist()
    assert weights.dtype == "bfloat16"


@pytest.mark.guarantee("torch-equality")
def test_offsets_and_strides_of_a_shared_storage(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32)
    content = {
        "transposed": Stored(base, (3, 2), (1, 3), 4),
        "expanded": Stored(base, (2, 5), (0, 1), 1),
        "overlapping": Stored(base, (3, 3), (1, 1)),
        "scalar": Stored(base, (), (), 23),
    }
    arrays = read_weights(write_archive(tmp_path / "a.pth", content)).arrays
    assert arrays["transposed"].tolist() == [[4, 7], [5, 8], [6, 9]]
    assert arrays["expanded"].tolist() == [[1, 2, 3, 4, 5]] * 2
    assert arrays["overlapping"].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert arrays["scalar"] == 23
    assert all(np.shares_memory(arrays["transposed"], array) for array in arrays.values() if array.size > 1)


@pytest.mark.guarantee("torch-equality")
def test_a_big_endian_archive_is_read(tmp_path: Path) -> None:
    content = {"a": np.array([1.5, -2.0], np.float32), "b": np.array([1, 2], np.int16), "c": np.array([True, False])}
    arrays = read_weights(write_archive(tmp_path / "a.pth", content, order="big")).arrays
    for name, array in content.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    path = write_archive(tmp_path / "b.pth", {"a": np.array([1], np.uint32)}, order="big")
    assert "a big-endian storage without a type" in refusal(path)
    assert "unknown byte order b'pdp'" in refusal(write_archive(tmp_path / "c.pth", content, order="pdp"))


def tiny(format: Any = "fb", seed: int = 0) -> dict[str, Array]:
    from levit_cli.checkpoints.save import to_format

    return to_format(random_state(TINY, seed), TINY, format)


def assert_random_model(state: Any, seed: int = 0) -> None:
    for name, array in random_state(TINY, seed).items():
        np.testing.assert_array_equal(state[name], array, strict=True)


TRAINING = {
    "optimizer": {"state": {0: {"exp_avg": np.ones(2, np.float32), "step": 3}}, "param_groups": [{"betas": (1.0,)}]},
    "epoch": 299,
    "args": Namespace({"model": "LeViT_128S", "lr": 5e-4, "resume": None, "mixup": [0.1, 1.0]}),
}  # fmt: skip


@pytest.mark.guarantee("training-checkpoint")
def test_metas_training_checkpoint_is_read_without_torch(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pth", {"model": tiny(), "model_ema": tiny(seed=5), **TRAINING})
    checkpoint = load(path)
    assert_random_model(checkpoint.state)
    assert_random_model(load(path, ema=True).state, seed=5)
    assert checkpoint.notes == ("read 'model', skipped model_ema, optimizer, epoch, args",)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running(FakeHub()) as site:
        yield site


LOAD = """
import json, sys
from levit_cli.checkpoints import load
state = load(sys.argv[1]).state
print(json.dumps(["torch" in sys.modules, {name: array.tobytes().hex() for name, array in state.items()}]))
"""


def assert_random_model_in_a_new_process(source: Path | str, env: dict[str, str]) -> None:
    """Check that a process loads the random model and does not import torch."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, source], capture_output=True, env={**os.environ, **env}, check=True, timeout=60
    )
    imported, state = json.loads(done.stdout)
    assert not imported
    assert state == {name: array.tobytes().hex() for name, array in random_state(TINY).items()}


def test_a_file_is_read_without_torch(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pth", {"model": tiny(), **TRAINING})
    assert_random_model_in_a_new_process(path, {})


@pytest.mark.parametrize("layout", ["Hugging Face", "Hugging Face in shards", "Meta"])
def test_pickles_of_the_hub_are_read_without_torch(tmp_path: Path, hub: FakeHub, layout: str) -> None:
    arrays = tiny("hf")
    files = {"config.json": json.dumps({"model_type": "levit"}).encode()}
    if layout == "Hugging Face in shards":
        names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        weight_map = {name: names[index % 2] for index, name in enumerate(arrays)}
        for file in names:
            part = {name: array for name, array in arrays.items() if weight_map[name] == file}
            files[file] = archive_of(part, root=file.partition(".")[0])
        files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    else:
        files["pytorch_model.bin"] = archive_of({"model": tiny(), **TRAINING} if layout == "Meta" else arrays)
    hub.add("owner/name", files)
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    assert_random_model_in_a_new_process("owner/name", env)


# --- names


OTHERS = [
    "os.system", "posix.system", "builtins.eval", "builtins.set", "builtins.getattr", "builtins.dict",
    "__builtin__.eval", "collections.deque", "collections.OrderedDict.fromkeys", "collections.abc.Mapping",
    "argparse.ArgumentParser", "argparse.Namespace.__init__", "argparse._sys.modules", "torch.load", "torch.hub.load",
    "torch.FloatStorage.from_file", "torch.Tensor.__reduce_ex__", "torch._utils._rebuild_tensor_v2.__globals__",
    "torch._utils.torch.load", "torch._utils._import_dotted_name", "torch.nn.parameter.Parameter.__new__",
    "torch.storage._load_from_bytes", "torch.storage.TypedStorage", "torch.", ".torch", "", ".", "a.b.c",
    "levit_cli.checkpoints.pickled_values.Namespace", "numpy.core.multiarray._reconstruct", "copyreg._reconstructor",
    "functools.partial", "operator.attrgetter", "types.FunctionType", "codecs.encode", "_codecs.encode",
]  # fmt: skip


@pytest.mark.guarantee("admitted-names", "malicious-pickle")
@pytest.mark.parametrize("name", OTHERS)
def test_another_name_is_refused(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    for tail in (b".", b")R.", b")\x81.", b"}b."):
        message = refusal_of(tmp_path, of_pickle(f"\x80\x02c{module}\n{attribute}\n".encode("latin1") + tail))
        assert "it would import" in message or "it uses the name" in message


@pytest.mark.guarantee("admitted-names")
def test_no_name_of_the_standard_library_or_torch_is_admitted_but_the_list() -> None:
    import importlib

    modules = ["builtins", "os", "collections", "argparse", "copyreg", "pickle", "sys", "types", "functools"]
    if "torch" in sys.modules:
        modules += ["torch", "torch._utils", "torch.storage", "torch.serialization"]
    others = {f"{module}.{name}" for module in modules for name in dir(importlib.import_module(module))} - NAMES
    assert len(others) > 500
    for other in others:
        module, _, attribute = other.rpartition(".")
        with pytest.raises(InvalidPickleError, match="it uses the name"):
            unpickle(f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"), NO_BUFFERS)


@pytest.mark.guarantee("admitted-names")
def test_the_list_of_names_is_short_and_each_is_inert() -> None:
    """A name alone, called or filled with state, imports nothing."""
    by_module: dict[str, int] = {}
    for name in sorted(NAMES):
        module, _, attribute = name.rpartition(".")
        by_module[module] = by_module.get(module, 0) + 1
        before = set(sys.modules)
        for tail in (b".", b")R.", b")\x81.", b"}b.", b"(K\x01K\x02tR.", b"](N]}K\x01etR."):
            with suppress(InvalidPickleError):
                unpickle(f"\x80\x02c{module}\n{attribute}\n".encode("latin1") + tail, NO_BUFFERS)
        assert set(sys.modules) == before
    assert by_module.pop("torch") == 13 + 11 + 15 + 5  # types, other types, storages; Size, Tensor, device, qschemes
    assert by_module == {
        "argparse": 1,
        "collections": 2,
        "torch._tensor": 1,
        "torch._utils": 8,
        "torch.nn.parameter": 1,
        "torch.serialization": 1,
        "torch.storage": 1,
    }
    assert all(function.__module__ == "levit_cli.checkpoints.pickled_values" for function in FUNCTIONS.values())


@pytest.mark.guarantee("admitted-names")
def test_an_extension_code_is_not_looked_up(tmp_path: Path) -> None:
    copyreg.add_extension("argparse", "Namespace", 200)
    try:
        for opcode in (b"\x82\xc8", b"\x83\xc8\x00", b"\x84\xc8\x00\x00\x00"):
            assert "EXT" in refusal_of(tmp_path, of_pickle(b"\x80\x02" + opcode + b"."))
    finally:
        copyreg.remove_extension("argparse", "Namespace", 200)


# --- opcodes


@pytest.mark.guarantee("malicious-pickle")
def test_every_other_opcode_is_refused_by_name(tmp_path: Path) -> None:
    others = [opcode for opcode in pickletools.opcodes if ord(opcode.code) not in (*HANDLERS, ord("."))]
    assert {"INST", "OBJ", "STACK_GLOBAL", "EXT1", "NEWOBJ_EX", "PERSID", "DUP", "POP", "BINBYTES8"} <= {
        opcode.name for opcode in others
    }
    for opcode in others:
        message = refusal_of(tmp_path, of_pickle(b"\x80\x02N" + opcode.code.encode("latin1") + bytes(20)))
        assert f"it uses the pickle opcode {opcode.name}, which torch.save does not write" in message
    assert "it uses the byte 0xff as a pickle opcode" in refusal_of(tmp_path, of_pickle(b"\x80\x02\xff"))


A, PAIR = b"X\x01\x00\x00\x00a", b"(K\x01K\x02t"
TENSOR = encode(Call(REBUILD, (FLOATS, 0, (2,), (1,), False, HOOKS)), [])
ODD: dict[str, tuple[bytes, str]] = {
    "no value": (b".", "ends within a value"),
    "two values": (b"NN.", "ends within a value"),
    "an open mark": (b"(N.", "ends within a value"),
    "no end": (b"N", "a value is missing"),
    "an empty stack": (b"R.", "a value is missing"),
    "no mark": (b"Nt.", "a value is missing"),
    "an empty memo": (b"h\x00.", "a value is missing"),
    "a tuple across a mark": (b"N(\x85.", "a value is missing"),
    "a short tuple": (b"N\x87.", "a value is missing"),
    "a cut number": (b"J\x00", "truncated"),
    "a cut text": (b"X\xff\xff\xff\xffabc", "truncated"),
    "a cut integer": (b"\x8a\xff\x01", "truncated"),
    "a cut name": (b"ctorch", "a text is invalid"),
    "a text that is not UTF-8": (b"X\x01\x00\x00\x00\xff.", "a text is invalid"),
    "a list as a key": (b"}]Ns.", "a key of a dict is neither text nor a number"),
    "a tuple as a key": (b"})Ns.", "a key of a dict is neither text nor a number"),
    "a tensor as a key": (b"}" + TENSOR + b"Ns.", "a key of a dict is neither text nor a number"),
    "a key without a value": (b"}(Nu.", "not a dict"),
    "an item of a list": (b"]NNs.", "not a dict"),
    "an item of a Namespace": (b"cargparse\nNamespace\n)\x81" + A + b"Ns.", "not a dict"),
    "an element of a tuple": (b")Na.", "not a list"),
    "elements of a dict": (b"}(Ne.", "not a list"),
    "a call of text": (A + b")R.", "calls something that is not a function"),
    "a call of a type": (b"ctorch\nfloat32\n)R.", "calls something that is not a function"),
    "a call of a Namespace": (b"cargparse\nNamespace\n)R.", "calls something that is not a function"),
    "a call of a tensor": (TENSOR + b")R.", "calls something that is not a function"),
    "a call with a list": (b"ccollections\nOrderedDict\n]R.", "calls something that is not a function"),
    "a call with too many arguments": (b"ccollections\nOrderedDict\n(NNtR.", "with other arguments than torch.save"),
    "an OrderedDict of a list": (b"ccollections\nOrderedDict\n]\x85R.", "made from other values"),
    "a Namespace with arguments": (b"cargparse\nNamespace\nN\x85\x81.", "not an argparse.Namespace"),
    "an object of another class": (b"ctorch.nn.parameter\nParameter\n)\x81.", "not an argparse.Namespace"),
    "an object of a function": (b"ccollections\nOrderedDict\n)\x81.", "not an argparse.Namespace"),
    "a state of a name": (b"cargparse\nNamespace\n}b.", "changes the state of something that has none"),
    "a state of a tensor": (TENSOR + b"}b.", "changes the state of something that has none"),
    "a state of a list": (b"]}b.", "changes the state of something that has none"),
    "a state that is a tuple": (b"cargparse\nNamespace\n)\x81N}\x86b.", "the state of an object is not a dict"),
    "text as a storage": (A + b"Q.", "refers to something that is not a storage"),
    "a number as a storage": (b"K\x01Q.", "refers to something that is not a storage"),
    "a tuple as a storage": (PAIR + b"Q.", "refers to something that is not a storage"),
}  # fmt: skip


@pytest.mark.guarantee("malicious-pickle")
@pytest.mark.parametrize("case", ODD)
def test_an_odd_pickle_is_refused_with_its_cause(tmp_path: Path, case: str) -> None:
    data, reason = ODD[case]
    assert reason in refusal_of(tmp_path, of_pickle(b"\x80\x02" + data))


STORAGE_KIND = Name("torch", "FloatStorage")
IDENTIFIERS: dict[str, tuple[Any, str]] = {
    "another kind": (("module", STORAGE_KIND, "0", "cpu", 2), "an invalid storage"),
    "a number as key": (("storage", STORAGE_KIND, 0, "cpu", 2), "an invalid storage"),
    "no location": (("storage", STORAGE_KIND, "0", None, 2), "an invalid storage"),
    "text as type": (("storage", "FloatStorage", "0", "cpu", 2), "a storage of an unknown type"),
    "a function as type": (("storage", ORDERED_DICT, "0", "cpu", 2), "a storage of an unknown type"),
    "an element type": (("storage", Name("torch", "float32"), "0", "cpu", 2), "a storage of an unknown type"),
    "a negative size": (("storage", STORAGE_KIND, "0", "cpu", -2), "a storage of an invalid size"),
    "a huge size": (("storage", STORAGE_KIND, "0", "cpu", 1 << 70), "a storage of an invalid size"),
    "a bool as size": (("storage", STORAGE_KIND, "0", "cpu", True), "a storage of an invalid size"),
    "too few parts": (("storage", STORAGE_KIND, "0", "cpu"), "not a storage"),
    "too many parts": (("storage", STORAGE_KIND, "0", "cpu", 2, None), "not a storage"),
    "a larger size": (("storage", STORAGE_KIND, "0", "cpu", 1 << 40), "has 8 bytes, but its pickle expects 4,398"),
    "a smaller size": (("storage", STORAGE_KIND, "0", "cpu", 1), "has 8 bytes, but its pickle expects 4"),
    "a missing entry": (("storage", STORAGE_KIND, "7", "cpu", 2), "its entry a/data/7 is missing"),
    "another folder": (("storage", STORAGE_KIND, "../data.pkl", "cpu", 2), "its entry a/data/../data.pkl is missing"),
}  # fmt: skip


@pytest.mark.guarantee("bounded-checkpoint")
@pytest.mark.parametrize("case", IDENTIFIERS)
def test_an_odd_storage_is_refused(tmp_path: Path, case: str) -> None:
    identifier, reason = IDENTIFIERS[case]
    call = Call(REBUILD, (Persistent(*identifier), 0, (1,), (1,), False, HOOKS))
    assert reason in refusal_of(tmp_path, of_pickle(b"\x80\x02" + encode({"a": call}, []) + b"."))


def test_a_storage_of_two_types_is_refused(tmp_path: Path) -> None:
    halves = Persistent("storage", Name("torch", "HalfStorage"), "0", "cpu", 4)
    content = {
        name: Call(REBUILD, (storage, 0, (2,), (1,), False, HOOKS)) for name, storage in (("a", FLOATS), ("b", halves))
    }
    assert "a storage in two ways" in refusal_of(tmp_path, of_pickle(b"\x80\x02" + encode(content, []) + b"."))


V2, V3 = "_rebuild_tensor_v2", "_rebuild_tensor_v3"
BYTES = Persistent("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", 8)
TENSORS: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "past the end": (V2, (FLOATS, 0, (3,), (1,), False, HOOKS), "exceeds its storage"),
    "offset past the end": (V2, (FLOATS, 2, (1,), (1,), False, HOOKS), "exceeds its storage"),
    "stride past the end": (V2, (FLOATS, 0, (2,), (2,), False, HOOKS), "exceeds its storage"),
    "offset of a scalar": (V2, (FLOATS, 2, (), (), False, HOOKS), "exceeds its storage"),
    "wider type": (V3, (BYTES, 0, (2,), (1,), False, HOOKS, Name("torch", "uint64")), "exceeds its storage"),
    "huge stride": (V2, (FLOATS, 0, (2,), (1 << 59,), False, HOOKS), "exceeds its storage"),
    "negative stride": (V2, (FLOATS, 1, (2,), (-1,), False, HOOKS), "negative size"),
    "negative size": (V2, (FLOATS, 0, (-2,), (1,), False, HOOKS), "negative size"),
    "negative offset": (V2, (FLOATS, -1, (1,), (1,), False, HOOKS), "without a storage"),
    "bool offset": (V2, (FLOATS, True, (1,), (1,), False, HOOKS), "without a storage"),
    "float size": (V2, (FLOATS, 0, (1.0,), (1,), False, HOOKS), "negative size"),
    "list as shape": (V2, (FLOATS, 0, [1], (1,), False, HOOKS), "invalid shape"),
    "fewer strides": (V2, (FLOATS, 0, (1, 1), (1,), False, HOOKS), "strides than dimensions"),
    "1e12 elements": (V2, (FLOATS, 0, (10**6, 10**6), (0, 0), False, HOOKS), "need 4,000,000,000,000 bytes"),
    "too many elements": (V2, (FLOATS, 0, (1 << 31, 1 << 31), (0, 0), False, HOOKS), "too many elements"),
    "too many dimensions": (V2, (FLOATS, 0, (1,) * 99, (1,) * 99, False, HOOKS), "invalid shape"),
    "no storage": (V2, ("0", 0, (1,), (1,), False, HOOKS), "without a typed storage"),
    "untyped storage": (V2, (BYTES, 0, (1,), (1,), False, HOOKS), "without a typed storage"),
    "typed storage": (V3, (FLOATS, 0, (1,), (1,), False, HOOKS, Name("torch", "uint16")), "without an untyped storage"),
    "text as type": (V3, (BYTES, 0, (1,), (1,), False, HOOKS, "uint16"), "without a type"),
    "storage as type": (V3, (BYTES, 0, (1,), (1,), False, HOOKS, Name("torch", "IntStorage")), "without a type"),
    "8-bit float": (V3, (BYTES, 0, (1,), (1,), False, HOOKS, Name("torch", "float8_e5m2")), "of type float8_e5m2"),
    "pending negation": (V2, (FLOATS, 0, (1,), (1,), False, HOOKS, {"neg": True}), "pending negation"),
    "text as metadata": (V2, (FLOATS, 0, (1,), (1,), False, HOOKS, "neg"), "invalid metadata"),
    "no arguments": (V2, (), "with other arguments than torch.save"),
    "parameter of text": ("_rebuild_parameter", ("text", True, HOOKS), "a parameter without a tensor"),
    "sparse": ("_rebuild_sparse_tensor", (1, 2), "a sparse tensor · save it after to_dense()"),
    "quantized": ("_rebuild_qtensor", (), "a quantized tensor · save it after dequantize()"),
    "meta": ("_rebuild_meta_tensor_no_storage", (), "a tensor on the meta device"),
}  # fmt: skip


@pytest.mark.guarantee("bounded-checkpoint")
@pytest.mark.parametrize("case", TENSORS)
def test_an_odd_tensor_is_refused(tmp_path: Path, case: str) -> None:
    function, arguments, reason = TENSORS[case]
    content = {"a": Call(Name("torch._utils", function), arguments)}
    assert reason in refusal_of(tmp_path, of_pickle(b"\x80\x02" + encode(content, []) + b"."))


def test_a_tensor_of_an_attributed_class_cannot_nest(tmp_path: Path) -> None:
    wrap, tensor_class = Name("torch._tensor", "_rebuild_from_type_v2"), Name("torch", "Tensor")
    plain = (FLOATS, 0, (2,), (1,), False, HOOKS)
    (tmp_path / "a.pth").write_bytes(
        of_pickle(b"\x80\x02" + encode({"a": Call(wrap, (REBUILD, tensor_class, plain, {"note": 1}))}, []) + b".")
    )
    assert read_weights(tmp_path / "a.pth").arrays["a"].tolist() == [0, 1]
    others: list[tuple[Any, ...]] = [
        (wrap, tensor_class, (REBUILD, tensor_class, plain, None), None),
        (ORDERED_DICT, tensor_class, (), None),
        (REBUILD, ORDERED_DICT, plain, None),
        (REBUILD, tensor_class, [], None),
    ]
    for arguments in others:
        refusal_of(tmp_path, of_pickle(b"\x80\x02" + encode({"a": Call(wrap, arguments)}, []) + b"."))


# --- bounds


def deep(opening: bytes, closing: bytes, count: int) -> bytes:
    return b"\x80\x02" + opening * count + closing * count + b"."


BOMBS: dict[str, bytes] = {
    "marks": deep(b"(", b"t", 20_000),
    "tuples": b"\x80\x02)" + b"\x85" * 40_000 + b".",
    "lists": deep(b"](", b"e", 12_000),
    "namespaces": deep(b"cargparse\nNamespace\n)\x81}" + A, b"sb", 5_000),
    "sets of lists": b"\x80\x02" + b"]" * 40_000,
    "dicts": b"\x80\x02(" + b"}" * 40_000 + b"t.",
    "memo": b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", (1 << 32) - 1 - index) for index in range(40_000)) + b".",
    "doubling": b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 9_000 + b".",
    "a list in itself": b"\x80\x02]q\x00(" + b"h\x00" * 40_000 + b"e.",
    "tensors": b"\x80\x02" + encode(REBUILD, []) + b"q\x01" + encode((FLOATS, 0, (2,), (1,), False, HOOKS), [])
        + b"q\x02(" + b"h\x01h\x02R" * 16_000 + b"t.",
    "colliding keys": b"\x80\x02}(" + b"".join(
        b"\x8a\x09" + (index * ((1 << 61) - 1)).to_bytes(9, "little", signed=True) + b"N" for index in range(-4, 4)
    ) + b"u.",
}  # fmt: skip


BYTES_PER_OPCODE = 300


@pytest.mark.guarantee("bounded-checkpoint")
@pytest.mark.parametrize("bomb", BOMBS)
def test_the_memory_for_an_opcode_is_bounded(tmp_path: Path, bomb: str) -> None:
    """Each bomb has 40,000 opcodes or more. With the largest number of opcodes it would take 150 MB at most."""
    content = of_pickle(BOMBS[bomb])
    tracemalloc.start()
    try:
        refusal_of(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 50_000 * BYTES_PER_OPCODE
    finally:
        tracemalloc.stop()


SECONDS = 5  # 80,000 keys with the same hash take 10 s or more


@pytest.mark.guarantee("bounded-checkpoint")
def test_no_number_is_a_key_of_a_dict_because_the_hashes_of_numbers_can_be_made_to_collide() -> None:
    data = encode({0: 1, -1: 2, 1.5: 3, True: 4, None: 5, "a": 6, 1 << 70: 7}, [])
    value = unpickle(b"\x80\x02" + data + b".", NO_BUFFERS)
    assert {str(key): number for key, number in value.items()} == {
        "0": 1,
        "-1": 2,
        "1.5": 3,
        "True": 4,
        "None": 5,
        "a": 6,
        str(1 << 70): 7,
    }
    assert {type(key) for key in value} == {str, OtherKey}


@pytest.mark.guarantee("bounded-checkpoint")
def test_no_number_is_an_index_of_the_memo_for_the_same_reason() -> None:
    machine = _Machine(b"\x80\x02Nr\xff\xff\xff\xffq\x05h\x05j\xff\xff\xff\xff\x86\x86.", NO_BUFFERS)
    assert machine.run() == (None, (None, None))
    assert {type(index) for index in machine.memo} == {str}


@pytest.mark.guarantee("bounded-checkpoint")
def test_the_imports_of_a_pickle_with_colliding_indices_are_found_at_once(tmp_path: Path) -> None:
    puts = b"".join(b"p%d\n" % (index * sys.hash_info.modulus) for index in range(80_000))
    start = time.process_time()
    assert "it would import os.system" in refusal_of(tmp_path, b"N" + puts + b"cos\nsystem\n)R.")
    assert time.process_time() - start < SECONDS


@pytest.mark.guarantee("malicious-pickle")
@pytest.mark.parametrize("start", [b"\x80\x02", b""])
def test_a_long_name_is_shortened_in_the_message(tmp_path: Path, start: bytes) -> None:
    evil = start + b"c" + b"m" * MIB + b"\nsystem\n)R."
    for content in (evil, of_pickle(evil)):
        message = refusal_of(tmp_path, content)
        assert "it would import mmm" in message
        assert len(message) < 1000


@pytest.mark.guarantee("bounded-checkpoint")
def test_the_number_of_opcodes_is_limited(tmp_path: Path) -> None:
    assert f"more than {MAX_OPCODES:,} opcodes" in refusal_of(tmp_path, of_pickle(b"\x80\x02" + b"N" * 3 * MAX_OPCODES))


@pytest.mark.guarantee("bounded-checkpoint")
def test_a_large_pickle_is_not_read(tmp_path: Path) -> None:
    name = "\U0001f600" + "k" * (16 * MIB)  # as text, each letter takes 4 bytes
    content = archive_of({name: None}, root="a")
    tracemalloc.start()
    try:
        assert "its pickle has 16,7" in refusal_of(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.guarantee("bounded-checkpoint")
def test_a_declared_size_takes_no_memory(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pth", {"a": np.zeros(4 * MIB, np.uint8)})
    tracemalloc.start()
    try:
        read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + MIB
    finally:
        tracemalloc.stop()


def test_a_state_of_only_skipped_storages_reads_none_of_them(tmp_path: Path) -> None:
    content = {"model": {"a": np.zeros(3, np.float32)}, "optimizer": np.zeros(16 * MIB, np.uint8)}
    path = write_archive(tmp_path / "a.pth", content)
    tracemalloc.start()
    try:
        read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_long_names_and_many_keys_are_shortened_in_messages(tmp_path: Path) -> None:
    for content in (
        {"k" * MIB: 1},
        {f"key {index}": 1 for index in range(10_000)},
        {"model": {"k" * MIB: np.zeros(3)}},
    ):
        with pytest.raises(RefusedError) as caught:
            load(write_archive(tmp_path / "a.pth", content))
        assert len(str(caught.value)) < 1000


# --- the archive


def plain() -> bytes:
    return archive_of({"a": np.arange(100, dtype=np.float32)}, root="a")


def patched(content: bytes, offset: int, layout: str, value: Any) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def central(content: bytes, name: bytes) -> int:
    """Return the offset of an entry's record in the directory."""
    return content.rindex(name) - 46


def end(content: bytes) -> int:
    return len(content) - 22


def in_directory(offset: int, layout: str, value: int, name: bytes = b"a/data/0") -> "Damage":
    """Return the damage that changes a field of an entry's record in the directory."""
    return lambda content: patched(content, central(content, name) + offset, layout, value)


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "cut": (lambda content: content[:-1], "the end of the archive is missing"),
    "bytes after the end": (lambda content: content + b"x", "the end of the archive is missing"),
    "a comment": (lambda content: patched(content, end(content) + 20, "<H", 1) + b"x", "end of the archive is missing"),
    "only a start": (lambda content: content[:10], "it is truncated"),
    "bytes before": (lambda content: b"PK\3\4" + content, "its directory ends at byte"),
    "directory elsewhere": (lambda content: patched(content, end(content) + 16, "<L", 7), "its directory ends at byte"),
    "more entries": (lambda content: patched(content, end(content) + 10, "<H", 9), "its directory is invalid"),
    "fewer entries": (lambda content: patched(content, end(content) + 10, "<H", 1), "its directory is invalid"),
    "no entries": (lambda content: patched(content, end(content) + 10, "<H", 0), "it has 0 entries"),
    "long name": (in_directory(28, "<H", 999, b"a/version"), "directory is invalid"),
    "header past the end": (in_directory(42, "<L", 1 << 30, b"a/version"), "truncated"),
    "header of another": (in_directory(42, "<L", 0, b"a/version"), "contradict"),
    "64-bit size missing": (
        in_directory(24, "<L", 0xFFFFFFFF, b"a/version"), "a 64-bit size is missing"
    ),
    "two sizes": (in_directory(20, "<Q", (300 << 32) + 300), "contradict"),
    "two checksums": (in_directory(16, "<L", 5), "contradict"),
    "compressed": (in_directory(10, "<H", 8), "compressed or encrypted"),
    "encrypted": (in_directory(8, "<H", 1), "compressed or encrypted"),
    "compressed in one header": (
        lambda content: patched(content, content.index(b"a/data/0") - 22, "<H", 8), "contradict"
    ),
    "another name": (lambda content: content.replace(b"a/version", b"a/vErsion", 1), "contradict each other"),
}  # fmt: skip


@pytest.mark.guarantee("unsupported-archive", "corrupt-weights")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused_with_its_cause(tmp_path: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    assert reason in refusal_of(tmp_path, change(plain()))


@pytest.mark.guarantee("unsupported-archive")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_listed_twice_or_overlapping_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name in ("a/data.pkl", "a/data/0", "a/data/0"):
            archive.writestr(name, b"\x80\x02N.")
    assert "it lists the entry a/data/0 twice" in refusal(tmp_path / "a.pth")
    inner = zip_of({"a/x": b"1234"})
    outer = zip_of({"a/data.pkl": b"\x80\x02N.", "a/data/0": inner, "a/x": b"1234"})
    start = outer.index(inner)
    content = patched(outer, central(outer, b"a/x"), "<B", ord("P"))
    assert "overlaps" in refusal_of(tmp_path, patched(content, central(outer, b"a/x") + 42, "<L", start))


@pytest.mark.guarantee("corrupt-weights")
@pytest.mark.parametrize("entry", ["a/data.pkl", "a/data/0", "a/byteorder", "a/version", "a/unused"])
def test_a_flipped_bit_of_any_entry_is_refused(tmp_path: Path, entry: str) -> None:
    content = bytearray(archive_of({"a": np.arange(9, dtype=np.float32)}, root="a", entries={"unused": b"12345678"}))
    content[content.index(entry.encode()) + len(entry)] ^= 1
    assert f"its entry {entry} has a wrong checksum" in refusal_of(tmp_path, bytes(content))


@pytest.mark.guarantee("torch-equality")
def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    """torch.serialization.set_crc32_options(False) writes 0 as the checksum of every entry."""
    content = bytearray(plain())
    for magic, offset in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        start = -1
        while (start := content.find(magic, start + 1)) >= 0:
            struct.pack_into("<L", content, start + offset, 0)
    (tmp_path / "a.pth").write_bytes(content)
    weights = read_weights(tmp_path / "a.pth")
    assert weights.arrays["a"].tolist() == list(range(100))
    assert weights.notes == ("the file was saved without checksums, so damage may go unnoticed",)


@pytest.mark.guarantee("corrupt-weights")
def test_a_flipped_bit_anywhere_in_an_archive_is_refused_or_harmless(tmp_path: Path) -> None:
    array = np.arange(4, dtype=np.float32)
    whole = archive_of({"a": array}, root="a")
    path = tmp_path / "a.pth"
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            arrays = read_weights(path).arrays
        except RefusedError:
            continue
        np.testing.assert_array_equal(arrays["a"], array, strict=True)


@pytest.mark.guarantee("unsupported-archive")
@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a/constants.pkl": b""}, "it is a TorchScript archive"),
        ({"a/code/constants.pkl": b""}, "it is a TorchScript archive"),
        ({"b/data.pkl": b""}, "is not a state dict"),
    ],
)
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, entries: dict[str, bytes], reason: str) -> None:
    assert reason in refusal_of(tmp_path, of_pickle(b"\x80\x02N.", entries))
    assert "no entry a/data.pkl" in refusal_of(tmp_path, zip_of({"a/x": b"", "b/data.pkl": b"\x80\x02N."}))


@pytest.mark.guarantee("unsupported-archive")
def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    bomb = zip_of({"a/data.pkl": bytes(50 * MIB)}, zipfile.ZIP_DEFLATED)
    assert f"its {len(bomb):,} bytes unpack to {50 * MIB:,}" in refusal_of(tmp_path, bomb)
    small = zip_of({"a/data.pkl": b"\x80\x02N."}, zipfile.ZIP_DEFLATED)
    assert "its entry a/data.pkl is compressed or encrypted" in refusal_of(tmp_path, small)


def test_a_64_bit_archive_is_read(tmp_path: Path) -> None:
    """Entries whose sizes are in 64-bit fields, as for files of more than 4 GiB, and a 64-bit end."""
    whole = plain()
    start, offset = end(whole), whole.index(b"PK\1\2")
    directory, count, position = b"", 0, offset
    while position < start:
        fields = list(struct.unpack_from("<4s6H3L5H2L", whole, position))
        name = whole[position + 46 : position + 46 + fields[10]]
        extra = struct.pack("<2H3Q", 1, 24, fields[9], fields[8], fields[16])
        position += 46 + len(name)
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        fields[11] = len(extra)
        directory, count = directory + struct.pack("<4s6H3L5H2L", *fields) + name + extra, count + 1
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + len(directory), 1)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "a.pth").write_bytes(whole[:offset] + directory + end64 + locator + tail)
    assert read_weights(tmp_path / "a.pth").arrays["a"].tolist() == list(range(100))


@pytest.mark.guarantee("malicious-pickle", "corrupt-weights")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_changed_bytes_of_a_pickle_are_refused_or_harmless(
    tmp_path: Path, changes: list[tuple[float, int]]
) -> None:
    with zipfile.ZipFile(
        write_archive(tmp_path / "a.pth", {"model": {"a": np.arange(2, dtype=np.float32)}})
    ) as archive:
        data = bytearray(archive.read("a/data.pkl"))
    for fraction, byte in changes:
        data[int(fraction * (len(data) - 1))] = byte
    (tmp_path / "b.pth").write_bytes(of_pickle(bytes(data)))
    try:
        weights = read_weights(tmp_path / "b.pth")
    except RefusedError:
        return
    assert all(isinstance(array, np.ndarray) and array.nbytes <= 8 for array in weights.arrays.values())


# --- without torch


def legacy_start() -> bytes:
    import pickle

    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name.partition(".")[0] == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.mark.guarantee("legacy-checkpoint")
@pytest.mark.usefixtures("without_torch")
def test_without_torch_the_format_before_1_6_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(legacy_start() + b"\x80\x02}.\x80\x02].")
    with pytest.raises(UsageError, match="needs the extra 'torch'") as caught:
        read_weights(tmp_path / "a.pth")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(tmp_path / "a.pth") in str(caught.value)
    assert caught.value.hint == f"{sys.executable} -m pip install 'levit-cli[torch]'"


@pytest.mark.guarantee("malicious-pickle")
@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
    "evil", [b"\x80\x02cposix\nsystem\n)R.", b"cposix\nsystem\n)R.", legacy_start() + b"cos\nsystem\n."]
)
def test_without_torch_a_malicious_pickle_is_refused_by_name(tmp_path: Path, evil: bytes) -> None:
    assert "it would import" in refusal_of(tmp_path, evil)


@pytest.mark.usefixtures("without_torch")
def test_without_torch_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    assert "a pickle that torch.save did not write" in refusal_of(tmp_path, b"\x80\x02}.")


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_without_torch_a_pickle_is_converted_to_safetensors_but_not_written(tmp_path: Path, dtype: Any) -> None:
    from levit_cli.checkpoints import save

    checkpoint = load(write_archive(tmp_path / "a.pth", {"model": tiny()}))
    for format in ("hf", "timm"):
        save(checkpoint, tmp_path / format, format, dtype)
        assert load(tmp_path / format).dtype == dtype
    with pytest.raises(LevitError, match=r"Writing \.pth needs the extra 'torch'") as caught:
        save(checkpoint, tmp_path / "b.pth", "fb", dtype)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_have_the_bytes_that_the_library_writes(tmp_path: Path, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    rng = np.random.default_rng(3)
    odd = np.frombuffer(rng.bytes(40_000), np.float32)
    odd = odd[~np.isnan(odd)]  # torch has more than one NaN
    ties = (np.arange(0x3F7F0000, 0x3F820000, 0x4000, dtype=np.uint32)).view(np.float32)
    arrays = {
        **arrays_of("fb"),
        "é": odd,
        "ties": ties,
        "transposed": np.ones((3, 2), np.float32).T,
        "scalar": np.array(3),
    }
    write_safetensors(tmp_path / "a", arrays, dtype)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for name, array in arrays.items()
    }
    cast = {
        name: tensor.to(getattr(torch, dtype) if tensor.is_floating_point() else torch.int64)
        for name, tensor in tensors.items()
    }
    assert (tmp_path / "a").read_bytes() == save(cast, metadata={"format": "pt"})
