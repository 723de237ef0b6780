"""``levit convert-checkpoint``: its report, its output and its errors."""

import json
from pathlib import Path

import pytest

from tests.support.binary import environment, levit
from tests.support.extras import hide_extra, needs_torch


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("hf", "hf-out"),
        ("timm", "out.safetensors"),
        ("timm", "timm-out"),
        pytest.param("fb", "out.pth", marks=needs_torch),
        ("hf", "half"),
    ],
)
def test_a_checkpoint_is_converted_and_verified(tiny_folder: Path, tmp_path: Path, format: str, name: str) -> None:
    dtype = ["--dtype", "float16"] if name == "half" else []
    done = levit("convert-checkpoint", tiny_folder, "-o", tmp_path / name, "--to", format, *dtype)
    assert done.returncode == 0, done.stderr
    report = done.stdout.decode()
    assert "unmapped      0" in report
    assert "verification  logits differ by at most" in report
    assert (tmp_path / name).exists()
    if not dtype:
        assert "at most 0 on 8 random images" in report  # same weights, same engine


@pytest.mark.guarantee("safe-conversion")
def test_an_existing_output_and_the_source_are_not_overwritten(tiny_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "there.safetensors"
    output.write_bytes(b"mine")
    done = levit("convert-checkpoint", tiny_folder, "-o", output, "--to", "timm")
    assert done.returncode == 2
    assert output.read_bytes() == b"mine"
    source = tiny_folder / "model.safetensors"
    before = source.read_bytes()
    for target in (source, tiny_folder):
        done = levit("convert-checkpoint", tiny_folder, "-o", target, "--to", "hf", "--overwrite")
        assert done.returncode == 2
    assert source.read_bytes() == before


def test_metas_format_cannot_be_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    done = levit("convert-checkpoint", tiny_folder, "-o", tmp_path / "folder", "--to", "fb")
    assert done.returncode == 2
    assert b".pth" in done.stderr


def test_labels_preprocessing_and_shortest_edge_are_stored(tiny_folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(list("abcdefg")))
    output = tmp_path / "out"
    done = levit(
        "convert-checkpoint", tiny_folder, "-o", output, "--to", "hf", "--labels", labels,
        "--preprocessing", "fb", "--resize-to", "64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(levit("info", output, "-f", "json").stdout)
    assert facts["labels"] == {"count": 7, "first": list("abcde")}
    assert facts["preprocessing"]["resize_to"] == [64, 64]
    assert facts["preprocessing"]["crop_rounding"] == "half_even"


def test_generated_labels_are_not_called_kept(tiny_folder: Path, tmp_path: Path) -> None:
    done = levit("convert-checkpoint", tiny_folder, "-o", tmp_path / "out", "--to", "hf")
    assert b"labels        none (the source names no classes)" in done.stdout
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"LABEL_{index}\n" for index in range(7)))
    done = levit("convert-checkpoint", tmp_path / "out", "-o", tmp_path / "named", "--to", "hf", "--labels", labels)
    assert b"labels        kept" in done.stdout
    done = levit("convert-checkpoint", tmp_path / "named", "-o", tmp_path / "timm", "--to", "timm")
    assert b"labels        kept" in done.stdout


def test_a_folder_without_weights_is_exit_3(tmp_path: Path) -> None:
    done = levit("convert-checkpoint", tmp_path, "-o", tmp_path / "out", "--to", "hf")
    assert done.returncode == 3
    assert b"holds no weights" in done.stderr


def test_without_torch_the_format_of_meta_is_not_written(tiny_folder: Path, tmp_path: Path) -> None:
    env = environment(**hide_extra("torch", tmp_path / "hidden"))
    done = levit("convert-checkpoint", tiny_folder, "-o", tmp_path / "out.pth", "--to", "fb", env=env)
    assert done.returncode == 2
    assert b"Writing .pth needs the extra 'torch'" in done.stderr
    assert b"-m pip install 'levit-cli[torch]'" in done.stderr
    assert not (tmp_path / "out.pth").exists()
    done = levit("convert-checkpoint", tiny_folder, "-o", tmp_path / "hf", "--to", "hf", "--dtype", "bfloat16", env=env)
    assert done.returncode == 0, done.stderr
