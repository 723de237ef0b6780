"""A stored fingerprint is valid only for its file and the contents that it was stored with."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import Evaluation
from levit_cli.data.labels import Labels
from levit_cli.images.transforms import transform_for
from levit_cli.predict.resume.fingerprint import differences, fingerprint_of, read_fingerprint, store_fingerprint
from levit_cli.predict.run_description import ModelDescription, RunDescription

LABELS = Labels(("cat", "dog"))
RUN = RunDescription(
    ModelDescription("here", "levit-128S", 2, 1.0, "ab" * 32, Evaluation("cats", 10, 0.8)),
    transform_for("hf", (224, 224)), "exact", "simd", "openvino", "cpu", "bf16", threads=2, top_k=5, version="1",
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"first record\n")
    with path.open("rb") as opened:
        try:
            os.setxattr(opened.fileno(), "user.levit.test", b"1")
        except (OSError, AttributeError):
            pytest.skip("this file system does not support extended attributes")
    return path


def fingerprint_in(path: Path) -> object:
    with path.open("rb") as opened:
        return read_fingerprint(opened.fileno())


def stored_in(path: Path, end: int | None = None) -> object:
    fingerprint = fingerprint_of(RUN, LABELS, "jsonl")
    with path.open("rb+") as opened:
        store_fingerprint(opened.fileno(), fingerprint, end)
    return fingerprint


def test_fingerprint_remains_when_the_file_grows_and_moves(file: Path) -> None:
    fingerprint = stored_in(file)
    with file.open("ab") as opened:
        opened.write(b"second record\n")
    moved = file.rename(file.with_name("elsewhere"))
    assert fingerprint_in(moved) == fingerprint


def test_fingerprint_of_earlier_contents_is_ignored(file: Path) -> None:
    stored_in(file)
    file.write_bytes(b"other record, longer\n")
    assert fingerprint_in(file) is None


def test_bytes_after_the_given_end_are_not_part_of_the_fingerprint(file: Path) -> None:
    end = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"torn")
    fingerprint = stored_in(file, end)
    os.truncate(file, end)
    assert fingerprint_in(file) == fingerprint


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"beginning": 3}', b'{"beginning": [1e9, ""]}'])
def test_invalid_fingerprint_is_ignored(file: Path, content: bytes) -> None:
    os.setxattr(file, "user.levit.run", content)
    assert fingerprint_in(file) is None


def test_new_file_has_no_fingerprint(file: Path) -> None:
    assert fingerprint_in(file) is None


def test_settings_that_do_not_affect_predictions_make_no_difference() -> None:
    model = replace(RUN.model, name="there", evaluation=None)
    other = fingerprint_of(replace(RUN, version="2", threads=7, model=model), LABELS, "jsonl")
    assert differences(fingerprint_of(RUN, LABELS, "jsonl"), other) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_k": 3}, "top-k was 5 and is 3"),
        ({"precision": "fp32"}, "precision was bf16 and is fp32"),
        ({"decode": "fast"}, "preprocessing: decode was exact and is fast"),
        ({"resizer": "pillow"}, "preprocessing: resizer was simd and is pillow"),
        ({"model": replace(RUN.model, sha256="cd" * 32)}, "model: sha256 was abab"),
        ({"model": replace(RUN.model, temperature=1.5)}, "model: temperature was 1.0 and is 1.5"),
        ({"model": replace(RUN.model, sha256=None)}, "model: sha256 was abab"),
    ],
)
def test_difference_is_described_with_both_values(change: dict[str, Any], words: str) -> None:
    (text,) = differences(fingerprint_of(RUN, LABELS, "jsonl"), fingerprint_of(replace(RUN, **change), LABELS, "jsonl"))
    assert text.startswith(words)


def test_labels_and_format_are_compared() -> None:
    (labels,) = differences(fingerprint_of(RUN, LABELS, "jsonl"), fingerprint_of(RUN, Labels(("cat", "Dog")), "jsonl"))
    assert labels.startswith("labels was ")
    (format,) = differences(fingerprint_of(RUN, LABELS, "jsonl"), fingerprint_of(RUN, LABELS, "csv"))
    assert format == "format was jsonl and is csv"
