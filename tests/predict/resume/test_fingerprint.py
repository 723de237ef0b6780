"""The note of a run goes with its file, and with no other contents."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from levit_cli.checkpoints import Evaluation
from levit_cli.data.labels import Labels
from levit_cli.images.transforms import transform_for
from levit_cli.predict.resume.fingerprint import attach, differences, note_of, read_note
from levit_cli.predict.run_description import ModelDescription, RunDescription

LABELS = Labels(("cat", "dog"))
RUN = RunDescription(
    ModelDescription("here", "levit-128S", 2, 1.0, "ab" * 32, Evaluation("cats", 10, 0.8)),
    transform_for("hf", (224, 224)), "exact", "openvino", "cpu", "bf16", threads=2, top_k=5, version="1",
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"first record\n")
    with path.open("rb") as opened:
        try:
            os.setxattr(opened.fileno(), "user.levit.test", b"1")
        except (OSError, AttributeError):
            pytest.skip("this file system keeps no extended attributes")
    return path


def note_in(path: Path) -> object:
    with path.open("rb") as opened:
        return read_note(opened.fileno())


def noted(path: Path, end: int | None = None) -> object:
    note = note_of(RUN, LABELS, "jsonl")
    with path.open("rb+") as opened:
        attach(opened.fileno(), note, end)
    return note


def test_a_note_stays_while_the_file_grows_and_moves(file: Path) -> None:
    note = noted(file)
    with file.open("ab") as opened:
        opened.write(b"second record\n")
    moved = file.rename(file.with_name("elsewhere"))
    assert note_in(moved) == note


def test_a_note_of_earlier_contents_is_none(file: Path) -> None:
    noted(file)
    file.write_bytes(b"other record, longer\n")
    assert note_in(file) is None


def test_what_will_be_cut_off_has_no_part_in_it(file: Path) -> None:
    end = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"torn")
    note = noted(file, end)
    os.truncate(file, end)
    assert note_in(file) == note


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"beginning": 3}', b'{"beginning": [1e9, ""]}'])
def test_what_is_no_note_is_none(file: Path, content: bytes) -> None:
    os.setxattr(file, "user.levit.run", content)
    assert note_in(file) is None


def test_no_note_is_none(file: Path) -> None:
    assert note_in(file) is None


def test_what_changes_no_answer_makes_no_difference() -> None:
    model = replace(RUN.model, name="there", evaluation=None)
    other = note_of(replace(RUN, version="2", threads=7, model=model), LABELS, "jsonl")
    assert differences(note_of(RUN, LABELS, "jsonl"), other) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_k": 3}, "top-k was 5 and is 3"),
        ({"precision": "fp32"}, "precision was bf16 and is fp32"),
        ({"decode": "fast"}, "preprocessing: decode was exact and is fast"),
        ({"model": replace(RUN.model, sha256="cd" * 32)}, "model: sha256 was abab"),
        ({"model": replace(RUN.model, temperature=1.5)}, "model: temperature was 1.0 and is 1.5"),
        ({"model": replace(RUN.model, sha256=None)}, "model: sha256 was abab"),
    ],
)
def test_a_difference_is_told_in_words(change: dict[str, Any], words: str) -> None:
    (told,) = differences(note_of(RUN, LABELS, "jsonl"), note_of(replace(RUN, **change), LABELS, "jsonl"))
    assert told.startswith(words)


def test_labels_and_format_count() -> None:
    (labels,) = differences(note_of(RUN, LABELS, "jsonl"), note_of(RUN, Labels(("cat", "Dog")), "jsonl"))
    assert labels.startswith("labels was ")
    (format,) = differences(note_of(RUN, LABELS, "jsonl"), note_of(RUN, LABELS, "csv"))
    assert format == "format was jsonl and is csv"
