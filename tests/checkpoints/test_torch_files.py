"""Checkpoints written by torch, in zip archives and in the format before 1.6, are read completely or refused."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from levit_cli.checkpoints import load, torch_files
from levit_cli.checkpoints.weights import read_weights, write_pickle, write_safetensors
from levit_cli.choices import Dtype
from levit_cli.errors import RefusedError
from tests.checkpoints.test_load import assert_random_model, random_arrays
from tests.checkpoints.test_weights import ARRAYS, refusal
from tests.support.checkpoint_files import arrays_of
from tests.support.random_weights import TINY

torch = pytest.importorskip("torch")


def tensors_of(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("write", [write_safetensors, write_pickle])
def test_written_weights_are_read_back(tmp_path: Path, write: Callable[..., None], dtype: Dtype) -> None:
    write(tmp_path / "weights", ARRAYS, dtype)
    weights = read_weights(tmp_path / "weights")
    assert weights.dtype == dtype
    assert {name: array.tolist() for name, array in weights.arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


def test_the_file_name_does_not_matter(tmp_path: Path) -> None:
    write_pickle(tmp_path / "pickle.safetensors", ARRAYS, "float32")
    write_safetensors(tmp_path / "safe.pth", ARRAYS, "float32")
    for name in ("pickle.safetensors", "safe.pth"):
        np.testing.assert_array_equal(read_weights(tmp_path / name).arrays["matrix"], ARRAYS["matrix"])


@pytest.mark.parametrize(
    ("content", "arrays"),
    [
        ({"a": torch.ones(2)}, {"a": [1, 1]}),
        ({"model": {"a": torch.ones(2)}}, {"a": [1, 1]}),
        ({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, {"a": [1, 1]}),
        ({"a": torch.nn.Parameter(torch.ones(2))}, {"a": [1, 1]}),
        ({"a": torch.arange(6.0).reshape(2, 3).T}, {"a": [[0, 3], [1, 4], [2, 5]]}),
        ({"a": torch.ones(2, dtype=torch.bfloat16)}, {"a": [1, 1]}),
        (torch.nn.Linear(1, 1, bias=False).state_dict() | {"weight": torch.ones(1, 1)}, {"weight": [[1]]}),
    ],
)
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.guarantee("legacy-checkpoint")
def test_a_state_dict_is_read(tmp_path: Path, content: Any, arrays: dict[str, Any], in_zip: bool) -> None:
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=in_zip)
    assert {name: array.tolist() for name, array in read_weights(path).arrays.items()} == arrays


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        ([torch.float16, torch.int64], "float16"),
        ([torch.bfloat16], "bfloat16"),
        ([torch.float32], "float32"),
        ([torch.float64], "float32"),
        ([torch.float16, torch.float32], "float32"),
        ([torch.float16, torch.bfloat16], "float32"),
    ],
)
def test_a_single_type_is_kept_and_mixed_types_are_float32(tmp_path: Path, stored: list[Any], dtype: Dtype) -> None:
    path = saved(tmp_path / "a.pth", {str(kind): torch.ones(2, dtype=kind) for kind in stored})
    assert read_weights(path).dtype == dtype


@pytest.mark.guarantee("corrupt-weights", "malicious-pickle")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_changed_bytes_of_a_pickle_are_refused_or_harmless(
    tmp_path: Path, in_zip: bool, changes: list[tuple[float, int]]
) -> None:
    path = saved(tmp_path / "a.pth", {"a": torch.arange(9.0)}, _use_new_zipfile_serialization=in_zip)
    content = bytearray(path.read_bytes())
    for fraction, byte in changes:
        content[int(fraction * (len(content) - 1))] = byte
    path.write_bytes(content)
    try:
        weights = read_weights(path)
    except RefusedError:
        return
    assert all(isinstance(array, np.ndarray) for array in weights.arrays.values())


@pytest.mark.guarantee("unsupported-archive")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "it is a TorchScript archive" in refusal(tmp_path / "a.pt")


@pytest.mark.guarantee("corrupt-weights")
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_a_pickle_truncated_anywhere_is_refused(tmp_path: Path, in_zip: bool) -> None:
    path = saved(tmp_path / "a.pth", {"a": torch.arange(100.0)}, _use_new_zipfile_serialization=in_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.guarantee("corrupt-weights")
def test_a_flipped_bit_in_the_weights_of_a_zip_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"a": torch.arange(100.0)})
    flipped = bytearray(path.read_bytes())
    flipped[flipped.index(torch.arange(100.0).numpy().tobytes()) + 42] ^= 4
    path.write_bytes(flipped)
    assert "its entry a/data/0 has a wrong checksum" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(1)], "it holds a list"),
        (torch.ones(1), "it holds a Tensor"),
        ({"a": torch.ones(1), "b": "text"}, "entries that are not named tensors: 1 of 2"),
        ({"a": {"b": torch.ones(1)}}, "entries that are not named tensors: 1 of 1"),
        ({1: torch.ones(1)}, "entries that are not named tensors: 1 of 1"),
        ({"model": {2: torch.ones(1)}}, "entries that are not named tensors: 1 of 1"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a tensor a that cannot be converted to an array"),
        ({"a": torch.ones(2, device="meta")}, "a tensor a that cannot be converted to an array"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a tensor a that cannot be converted to an array"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj()}, "a tensor a that cannot be converted to an array"),
        ({"a": torch.ones(1).expand(1_000_000, 1_000_000)}, "its tensors need 4,000,000,000,000 bytes"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    assert reason in refusal(saved(tmp_path / "a.pth", content))


@pytest.mark.guarantee("old-torch")
def test_an_unsafe_torch_reads_no_legacy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "MIN_SAFE_TORCH", (99, 0))
    saved(tmp_path / "old.pth", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "upgrade to torch >= 2.10" in refusal(tmp_path / "old.pth")
    write_pickle(tmp_path / "a.pth", ARRAYS, "float32")
    write_safetensors(tmp_path / "a.safetensors", ARRAYS, "float32")
    for name in ("a.pth", "a.safetensors"):  # read without torch
        assert read_weights(tmp_path / name).arrays.keys() == ARRAYS.keys()


def test_ema_weights_are_read_on_request(tmp_path: Path) -> None:
    content = {"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}, "epoch": 7}
    path = saved(tmp_path / "a.pth", content)
    weights, average = read_weights(path), read_weights(path, ema=True)
    assert (weights.arrays["a"].item(), average.arrays["a"].item()) == (0, 1)
    assert weights.notes == ("read 'model', skipped model_ema, epoch",)
    assert average.notes == ("read 'model_ema', skipped model, epoch",)


def test_missing_ema_weights_are_refused(tmp_path: Path) -> None:
    assert "it holds model, epoch" in refusal(saved(tmp_path / "a.pth", {"model": {}, "epoch": 7}), ema=True)
    write_safetensors(tmp_path / "a.safetensors", ARRAYS, "float32")
    assert "one set of weights" in refusal(tmp_path / "a.safetensors", ema=True)


TRAINING_EXTRAS = {
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": 3}}, "param_groups": [{"betas": (0.9, 0.999)}]},
    "lr_scheduler": {"t_initial": 1000, "base_values": [5e-4]},
    "epoch": 299,
    "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
    "args": argparse.Namespace(model="LeViT_128S", lr=5e-4, output_dir="", resume=None, mixup_minmax=[0.1, 1.0]),
}  # fmt: skip


@pytest.mark.guarantee("training-checkpoint")
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_metas_training_checkpoint_is_loaded_and_its_ema_on_request(tmp_path: Path, in_zip: bool) -> None:
    average = {name: torch.from_numpy(array) for name, array in random_arrays("fb", seed=5).items()}
    content = {"model": tensors_of(arrays_of("fb")), "model_ema": average, **TRAINING_EXTRAS}
    torch.save(content, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=in_zip)
    trained, averaged = load(tmp_path / "checkpoint.pth"), load(tmp_path / "checkpoint.pth", ema=True)
    assert_random_model(trained.state)
    assert_random_model(averaged.state, seed=5)
    assert trained.notes == ("read 'model', skipped model_ema, optimizer, lr_scheduler, epoch, scaler, args",)
    assert averaged.notes[0].startswith("read 'model_ema', skipped model, ")
    assert len(trained.conversion.dropped) == sum(TINY.depths) + 2  # Meta's index tensors
