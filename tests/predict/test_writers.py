import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_cli.choices import Format
from levit_cli.data.labels import Labels, imagenet1k
from levit_cli.errors import InputError, UsageError
from levit_cli.images.transforms import transform_for
from levit_cli.predict.pipeline import Prediction, Ranked
from levit_cli.predict.run_description import ModelDescription, RunDescription
from levit_cli.predict.writers import format_for, make_writer
from levit_cli.system.text import printable

LABELS = Labels(("cat", "dog, or wolf", 'a "quoted"\tone'))
RUN = RunDescription(
    ModelDescription("m", "levit-128S", 3, 1.0), transform_for("hf", (224, 224)), "exact", "simd",
    "openvino", "cpu", "fp32", threads=2, top_k=2,
)  # fmt: skip
OK = Prediction("a.jpg", (Ranked(1, 0.75), Ranked(2, 0.25)))
BAD = Prediction("b.jpg", error=InputError("truncated", "cut, short"))


class Memory(io.BytesIO):
    """A target in memory."""


def written(format: Format, predictions: list[Prediction], labels: Labels = LABELS, **options: Any) -> bytes:
    target = Memory()
    writer = make_writer(format, target, labels, 2, RUN, **options)  # type: ignore[arg-type]
    for prediction in predictions:
        writer.write(prediction)
    writer.finish()
    return target.getvalue()


def test_jsonl_records_have_the_stable_keys() -> None:
    first, second = (json.loads(line) for line in written("jsonl", [OK, BAD]).splitlines())
    assert first == {
        "path": "a.jpg",
        "status": "ok",
        "top": [
            {"index": 1, "label": "dog, or wolf", "prob": 0.75},
            {"index": 2, "label": LABELS.names[2], "prob": 0.25},
        ],
    }
    assert second == {"path": "b.jpg", "status": "error", "error": {"kind": "truncated", "message": "cut, short"}}


def test_imagenet_records_have_wordnet_ids() -> None:
    (line,) = written("jsonl", [Prediction("a", (Ranked(134, 0.5), Ranked(517, 0.5)))], imagenet1k()).splitlines()
    first, second = json.loads(line)["top"]
    assert first["label"] == second["label"] == "crane"
    assert (first["wnid"], second["wnid"]) == ("n02012849", "n03126707")


def test_json_is_one_document_with_meta() -> None:
    document = json.loads(written("json", [OK, BAD]))
    assert document["schema_version"] == 1
    assert document["meta"]["model"]["name"] == "m"
    assert [record["path"] for record in document["results"]] == ["a.jpg", "b.jpg"]
    assert json.loads(written("json", []))["results"] == []


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_and_tsv_have_the_stable_columns(format: Format, delimiter: str) -> None:
    text = written(format, [OK, BAD]).decode()
    header, ok, bad = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    assert header == ["path", "status", "error", "index1", "label1", "prob1", "index2", "label2", "prob2"]
    assert ok == ["a.jpg", "ok", "", "1", "dog, or wolf", "0.750000", "2", LABELS.names[2], "0.250000"]
    assert bad == ["b.jpg", "error", "truncated: cut, short", *[""] * 6]


NAMES = (
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
HOSTILE = [
    "a\nb",
    "tab\there",
    "comma,",
    '"',
    "-rf",
    "[red]x[/red]",
    ":smile:",
    "\x1b[31m",
    "=1+1",
    "caf\udce9",
    "é",
    "\r\n",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_parsed_exactly_from_every_format(name: str) -> None:
    check_every_format(name)


@pytest.mark.guarantee("hostile-names")
@given(NAMES)
def test_any_name_is_parsed_exactly_from_every_format(name: str) -> None:
    check_every_format(name)


def check_every_format(name: str) -> None:
    import base64
    import os

    predictions = [Prediction(name, OK.top), BAD]
    lines = written("jsonl", predictions).split(b"\n")[:-1]
    documents = [json.loads(lines[0]), json.loads(written("json", predictions))["results"][0]]
    for record in documents:
        raw = base64.b64decode(record["path_b64"]) if "path_b64" in record else record["path"].encode()
        assert raw == os.fsencode(name)
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        text = written(format, predictions).decode("utf-8", "surrogateescape")  # type: ignore[arg-type]
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        assert rows[1][0] == name
        assert rows[2][0] == BAD.path


def test_table_escapes_control_characters_and_ignores_markup() -> None:
    text = written("table", [Prediction("[red]\x1b[31m\n:smile:", OK.top), BAD]).decode()
    assert "[red]\\x1b[31m\\n:smile:" in text
    assert "\x1b" not in text
    assert "truncated: cut, short" in text
    assert "model m: levit-128S, 3 classes, 224 x 224 px" in text


def test_printable_escapes_undecodable_bytes_only() -> None:
    assert printable("Bäume (2).jpg") == "Bäume (2).jpg"
    assert printable("\udce9") == "\\udce9"


@pytest.mark.parametrize(
    ("format", "output", "is_terminal", "expected"),
    [
        (None, None, True, "table"),
        (None, None, False, "tsv"),
        ("json", None, True, "json"),
        (None, "x.jsonl", True, "jsonl"),
        (None, "x.CSV", False, "csv"),
        ("tsv", "x.jsonl", False, "tsv"),
    ],
)
def test_format_is_chosen_by_option_suffix_and_terminal(
    format: Format | None, output: str | None, is_terminal: bool, expected: str
) -> None:
    assert format_for(format, Path(output) if output else None, is_terminal=is_terminal) == expected


def test_unknown_suffix_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"out\.txt"):
        format_for(None, Path("out.txt"), is_terminal=False)
