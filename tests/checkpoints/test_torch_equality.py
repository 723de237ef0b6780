"""Zip archives are read bit for bit as ``torch.load`` reads them."""

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levit_cli.checkpoints.weights import read_weights

torch = pytest.importorskip("torch")

FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
pytestmark = pytest.mark.guarantee("torch-equality")


def random_bits(dtype: str, count: int = 120, seed: int = 1) -> Any:
    """Return a tensor with random bits, among them NaN, infinities and denormal numbers."""
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, count).astype(bool))
    content = np.random.default_rng(seed).bytes(count * kind.itemsize)
    return torch.frombuffer(bytearray(content), dtype=kind)


VIEWS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda base: base,
    "4-d": lambda base: base.view(2, 3, 4, 5),
    "0-d": lambda base: base[7],
    "offset": lambda base: base[17:],
    "one element": lambda base: base[119:120],
    "steps": lambda base: base[3::7],
    "transposed": lambda base: base.view(8, 15).T,
    "permuted": lambda base: base.view(2, 3, 4, 5).permute(3, 0, 2, 1)[1:, :, ::2],
    "expanded": lambda base: base[5:9].view(4, 1).expand(4, 9),
    "stride 0": lambda base: base[3].expand(3, 5),
    "overlapping": lambda base: base.as_strided((10, 10), (2, 3), 4),
    "diagonal": lambda base: base.view(10, 12).diagonal(1),
    "channels last": lambda base: base.view(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "empty": lambda base: base[:0],
    "empty with sizes": lambda base: base[:0].view(4, 0, 3),
    "size-1 dimensions": lambda base: base.view(1, 120, 1)[:, 30:60],
    "own storage": lambda base: base[30:60].clone(),
}


def torch_bytes(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    """Return the archive with other entries, written by Python."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in change(entries).items():
            archive.writestr(name, value)
    return stream.getvalue()


LATER = ("byteorder", ".data/serialization_id", ".format_version", ".storage_alignment")


def without(entries: dict[str, bytes], names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: value for name, value in entries.items() if name.partition("/")[2] not in names}


LAYOUTS: dict[str, Callable[[bytes], bytes]] = {
    "as written": lambda content: content,
    "written by Python": lambda content: rewritten(content, lambda entries: entries),
    "torch 1.6": lambda content: rewritten(content, lambda entries: without(entries, LATER)),
    "torch 2.0": lambda content: rewritten(content, lambda entries: without(entries, LATER[:1])),
    "reversed entries": lambda content: rewritten(content, lambda entries: dict(reversed(entries.items()))),
    "root named archive": lambda content: rewritten(
        content, lambda entries: {f"x/{name.partition('/')[2]}": value for name, value in entries.items()}
    ),
}


def assert_equal_to_torch(path: Path) -> None:
    expected = torch.load(path, weights_only=True)
    arrays = read_weights(path).arrays
    assert arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        array = arrays[name]
        assert array.shape == tuple(tensor.shape)
        wide = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        assert array.dtype == wide.numpy().dtype
        assert array.tobytes() == wide.numpy().tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_tensor_has_the_same_bits(tmp_path: Path, dtype: str, view: str) -> None:
    (tmp_path / "a.pth").write_bytes(torch_bytes({"a": VIEWS[view](random_bits(dtype))}))
    assert_equal_to_torch(tmp_path / "a.pth")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_one_storage_have_the_same_bits(tmp_path: Path, dtype: str, layout: str) -> None:
    base = random_bits(dtype)
    content = {name: view(base) for name, view in VIEWS.items()} | {"again": base, "other": random_bits(dtype, seed=2)}
    (tmp_path / "a.pth").write_bytes(LAYOUTS[layout](torch_bytes(content)))
    assert_equal_to_torch(tmp_path / "a.pth")


def test_all_types_in_one_file_have_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(torch_bytes({dtype: random_bits(dtype) for dtype in DTYPES}))
    assert_equal_to_torch(tmp_path / "a.pth")


def test_tensors_of_two_types_in_one_storage_have_the_same_bits(tmp_path: Path) -> None:
    """torch saves this for types that have no typed storage: uint16, uint32 and uint64."""
    base = random_bits("uint8")
    (tmp_path / "a.pth").write_bytes(
        torch_bytes({"a": base, "b": base.view(torch.uint32), "c": base.view(torch.uint16)})
    )
    assert_equal_to_torch(tmp_path / "a.pth")


def test_tensors_of_one_storage_share_memory(tmp_path: Path) -> None:
    base = torch.arange(1000.0)
    (tmp_path / "a.pth").write_bytes(torch_bytes({"a": base, "b": base[10:20], "c": torch.arange(3.0)}))
    arrays = read_weights(tmp_path / "a.pth").arrays
    assert np.shares_memory(arrays["a"], arrays["b"])
    assert not np.shares_memory(arrays["a"], arrays["c"])
    assert all(array.flags.writeable for array in arrays.values())


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype not in ("uint16", "uint32", "uint64")])
def test_a_big_endian_archive_has_the_same_values(tmp_path: Path, dtype: str) -> None:
    base = random_bits(dtype)
    content = torch_bytes({name: view(base) for name, view in VIEWS.items()})

    def big_endian(entries: dict[str, bytes]) -> dict[str, bytes]:
        width = getattr(torch, dtype).itemsize
        return {
            name: b"big" if name.endswith("byteorder")
            else np.frombuffer(value, f"u{width}").byteswap().tobytes() if "/data/" in name else value
            for name, value in entries.items()
        }  # fmt: skip

    (tmp_path / "little.pth").write_bytes(content)
    (tmp_path / "big.pth").write_bytes(rewritten(content, big_endian))
    assert_equal_to_torch(tmp_path / "big.pth")
    little, big = (read_weights(tmp_path / f"{order}.pth").arrays for order in ("little", "big"))
    for name in little:
        np.testing.assert_array_equal(big[name].tobytes(), little[name].tobytes())


def with_attribute(tensor: Any) -> Any:
    tensor.note = "text"
    return tensor


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.nn.Parameter(torch.randn(3, 4))},
        {"a": torch.nn.Parameter(torch.randn(3, 4).T, requires_grad=False)},
        {"a": with_attribute(torch.nn.Parameter(torch.randn(3)))},
        {"a": with_attribute(torch.randn(3, 4)[:, 1:])},
        {"a": torch.randn(3, requires_grad=True)},
        OrderedDict(a=torch.randn(3)),
        torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(),
        {"é 猫": torch.randn(2), "": torch.randn(1)},
        {"a" * 300: torch.randn(2)},
        {str(index): torch.full((2,), index) for index in range(700)},
    ],
)
def test_containers_and_parameters_are_read(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.pth").write_bytes(torch_bytes(content))
    assert_equal_to_torch(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse")
def test_everything_beside_the_weights_is_skipped(tmp_path: Path) -> None:
    from collections import Counter

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "others": [
            Counter(a=1),
            torch.Size((1, 2)),
            torch.device("cpu"),
            torch.float16,
            -(1 << 40),
            1 << 400,
            "é",
            0.5,
        ],
        "storage": torch.arange(3.0).untyped_storage(),
        "unreadable": [
            torch.ones(2, 2).to_sparse(),
            torch.ones(2, dtype=torch.complex64),
            torch.ones(2, device="meta"),
        ],
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "rng": torch.get_rng_state(),
    }
    (tmp_path / "a.pth").write_bytes(torch_bytes(content))
    weights = read_weights(tmp_path / "a.pth")
    for name, tensor in model.state_dict().items():
        assert weights.arrays[name].tobytes() == tensor.numpy().tobytes()
    assert weights.notes[0].startswith("read 'model', skipped optimizer, scheduler, others")
