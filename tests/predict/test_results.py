"""Outputs of predict are read back as they were written; other files are refused with the place of the damage."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_cli.choices import Format
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError, UsageError
from levit_cli.predict.pipeline import Prediction, Ranked
from levit_cli.predict.records import as_json, json_record, record_format
from levit_cli.predict.results import Result, not_a_local_file, read_results
from levit_cli.system import locking
from tests.predict.test_records import ANSWERS, FAILURES
from tests.support.extras import needs_parquet

LABELS = Labels(
    ("cat", "dog, or wolf", 'a "quoted"\tone', "new\nline", "écluse"), tuple(f"n0000000{n}" for n in range(5))
)
PREDICTIONS = [
    Prediction("a.jpg", (Ranked(0, 0.75), Ranked(1, 0.25))),
    Prediction("cut\nhere.jpg", error=InputError("truncated", "the file ends, too early")),
    Prediction("caf\udce9, \r'\".jpg", (Ranked(3, 1.0), Ranked(4, 0.0))),
]
FORMATS = ["jsonl", "json", "csv", "tsv", pytest.param("parquet", marks=needs_parquet)]
LINES: list[Format] = ["jsonl", "csv", "tsv"]


def write(path: Path, format: Format, predictions: list[Prediction]) -> Path:
    """Write an output as ``levit predict`` does, with the top 2."""
    if format == "json":
        results = [json_record(prediction, LABELS) for prediction in predictions]
        path.write_bytes(as_json({"schema_version": 1, "meta": {}, "results": results}))
        return path
    records = record_format(format, LABELS, 2)
    assert records is not None
    content = records.header + b"".join(map(records.encode, predictions))
    path.write_bytes(content)
    if format == "parquet":
        from levit_cli.predict.parquet_output import convert

        converted: list[bytes] = []
        with path.open("rb") as journal:
            convert(journal, converted.append, {})
        path.write_bytes(b"".join(converted))
    return path


def fields(prediction: Prediction) -> tuple[object, ...]:
    classes = [(index, LABELS.names[index], round(prob, 6)) for index, prob in prediction.top]
    error = prediction.error
    return prediction.path, classes, error and (error.kind, error.message.encode("utf-8", "replace"))


def fields_read(result: Result) -> tuple[object, ...]:
    classes = [(entry.class_index, entry.label, entry.prob) for entry in result.top]
    error = result.error
    return result.path, classes, error and (error.kind, error.message.encode("utf-8", "replace"))


@dataclass
class Reader:
    """Reads files and keeps what was logged."""

    logged: list[str] = field(default_factory=list)

    def __call__(self, path: Path) -> list[Result]:
        return [*read_results(path, self.logged.append)]


@pytest.fixture
def read() -> Reader:
    return Reader()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["results", "results.txt", "results.csv"])
def test_each_format_is_read_back_whatever_its_name(format: Format, name: str, tmp_path: Path, read: Reader) -> None:
    results = read(write(tmp_path / name, format, PREDICTIONS))
    assert [*map(fields_read, results)] == [*map(fields, PREDICTIONS)]
    assert {entry.wnid for result in results for entry in result.top} == (
        {"n00000000", "n00000001", "n00000003", "n00000004"} if format in ("json", "jsonl") else {""}
    )
    assert [result.is_ok for result in results] == [True, False, True]
    assert [result.accepted for result in results] == [None] * 3
    assert read.logged == []


@pytest.mark.parametrize("format", [*LINES, "json"])
@settings(max_examples=30)
@given(st.lists(ANSWERS | FAILURES, min_size=1, max_size=4))
def test_any_name_and_message_is_read_back(
    format: Format, tmp_path_factory: pytest.TempPathFactory, predictions: list[Prediction]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"any.{format}", format, predictions)
    assert [*map(fields_read, Reader()(path))] == [*map(fields, predictions)]


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_jq_may_have_rewritten_the_file(format: Format, tmp_path: Path, read: Reader) -> None:
    path = write(tmp_path / "results", format, PREDICTIONS)
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    indented = "\n".join(json.dumps(document, indent=2) for document in documents)
    compact = "".join(json.dumps(document, separators=(",", ":"), sort_keys=True) + "\r\n" for document in documents)
    path.write_text(compact if format == "jsonl" else indented, encoding="utf-8-sig", newline="")
    assert [*map(fields_read, read(path))] == [*map(fields, PREDICTIONS)]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_accepted_is_the_last_column(delimiter: str, tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "results"
    rows = [
        ["path", "status", "error", "index1", "label1", "prob1", "accepted"],
        ["a.jpg", "ok", "", "1", "dog", "0.9", "true"],
        ["b.jpg", "ok", "", "1", "dog", "0.2", "false"],
        ["c.jpg", "error", "empty_file: no bytes", "", "", "", ""],
    ]
    path.write_text("".join(delimiter.join(row) + "\r\n" for row in rows), newline="")
    assert [(result.path, result.accepted) for result in read(path)] == [
        ("a.jpg", True),
        ("b.jpg", False),
        ("c.jpg", None),
    ]


@pytest.mark.parametrize("format", LINES)
def test_a_file_cut_anywhere_gives_its_complete_records(format: Format, tmp_path: Path) -> None:
    content = write(tmp_path / "whole", format, PREDICTIONS).read_bytes()
    sizes = [write(tmp_path / "part", format, PREDICTIONS[:end]).stat().st_size for end in range(3)]
    if format == "jsonl":  # other programs may leave out the last line break
        sizes = [size - 1 for size in sizes]
    ends = {*sizes, *(size + 1 for size in sizes if format == "jsonl")}
    for end in range(sizes[1], len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:end])
        read = Reader()
        complete = sum(size <= end for size in sizes) - 1
        assert [*map(fields_read, read(tmp_path / "cut"))] == [*map(fields, PREDICTIONS[:complete])]
        assert len(read.logged) == (end not in ends)
    for end in range(sizes[1]):
        (tmp_path / "cut").write_bytes(content[:end])
        with pytest.raises(UsageError, match=r"not? complete|not an output|it is empty"):
            Reader()(tmp_path / "cut")


def test_an_incomplete_last_record_is_reported_with_its_line(tmp_path: Path, read: Reader) -> None:
    path = write(tmp_path / "results.jsonl", "jsonl", PREDICTIONS)
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read(path)) == 2
    (line,) = read.logged
    assert "line 3" in line
    assert "--resume" in line


def jsonl(**changes: object) -> str:
    record = {"path": "a.jpg", "status": "ok", "top": [{"index": 1, "label": "dog", "prob": 0.5}], **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None}) + "\n"


def entry(**changes: object) -> list[dict[str, object]]:
    return [{"index": 1, "label": "dog", "prob": 0.5, **changes}]


@pytest.mark.guarantee("results-file")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("\n\n", "not an output"),
        ("a photo, not a list\n", "not an output"),
        ("path,status\na,b\n", "not an output"),
        ("path,status,error\n", "line 1"),
        ("path,status,error,index1,label1,prob1\n", "no complete record"),
        ("path,status,error,index1,label1,prob1\na.jpg,ok,,1,dog,0.5\nb.jpg,ok,,1,dog\n", "line 3"),
        ("path,status,error,index1,label1,prob1\na.jpg,fine,,1,dog,0.5\n", "line 2.*fine"),
        ("path,status,error,index1,label1,prob1\na.jpg,ok,,1,dog,2.5\n", "line 2.*probability"),
        ("path,status,error,index1,label1,prob1\na.jpg,error,odd: x,,,\n", "line 2.*odd"),
        ('path,status,error,index1,label1,prob1\n"a.jpg,ok,,1,dog,0.5\nb.jpg,ok,,1,dog,0.5\n', "line 2.*quote"),
        ("path,status,error,label1,index1,prob1\n", "columns"),
        ("[1]\n", "not an output"),
        ('{"version": 1}\n', "line 1.*missing 'path'"),
        ('{"results": 3}\n', "without a list of results"),
        ('{"schema_version": 1,\n "results": [\n {"path": ', "not complete JSON: .*line 3"),
        ('{"schema_version": 1, "results": [{"path": 3}]}', "result 1"),
        (jsonl() + "{]\n" + jsonl(), "line 2"),
        (2 * (json.dumps(json.loads(jsonl()), indent=2) + "\n"), "option -c"),
        (jsonl() + jsonl(status="error"), "line 2.*status"),
        (jsonl(top=None, vector=[0.1]), "line 1.*no classes"),
        (jsonl(top=entry(prob=float("nan"))), "line 1.*probability"),
        (jsonl(top=entry(prob="high")), "line 1"),
        (jsonl(top=[{"index": 1, "prob": 0.5}]), "line 1.*missing 'label'"),
        (jsonl(path=""), "line 1.*path"),
        (jsonl(path="a\0b"), "line 1.*NUL"),
        (jsonl(path_b64="YQ=="), "line 1.*path_b64"),
        (jsonl(accepted="yes"), "line 1.*accepted"),
        ("[" * 100_000 + "\n", "not an output"),
        ('{"path":' * 100_000 + "\n", "line 1"),
    ],
)
def test_foreign_and_damaged_files_are_refused(content: str, message: str, tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "results"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.guarantee("results-file")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.write_text(jsonl(), encoding="utf-16"), "UTF-16"),
        (lambda path: path.write_bytes(b"PAR1 and then no Parquet"), "Parquet|parquet"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 a photo"), "not an output"),
    ],
    ids=["missing", "folder", "utf-16", "parquet", "jpeg"],
)
def test_other_kinds_of_files_are_refused(
    make: Callable[[Path], None], message: str, tmp_path: Path, read: Reader
) -> None:
    make(tmp_path / "results")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "results")


@needs_parquet
def test_a_parquet_file_of_another_program_is_refused(tmp_path: Path, read: Reader) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a.jpg"], "label": ["dog"]}), tmp_path / "results")
    with pytest.raises(UsageError, match="no column"):
        read(tmp_path / "results")


@pytest.mark.guarantee("results-file")
def test_a_file_that_is_being_written_is_refused(tmp_path: Path, read: Reader) -> None:
    path = write(tmp_path / "results", "jsonl", PREDICTIONS)
    descriptor = os.open(path, os.O_RDWR)
    locking.lock(descriptor)
    with pytest.raises(UsageError, match="still writing"):
        read(path)
    locking.close(descriptor)
    assert len(read(path)) == 3


def test_names_that_are_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.tar", "row.parquet#3", "b.tar!"):
        Path(name).touch()
    names = {
        "-": "standard input",
        "http://a/b.jpg": "a URL",
        "s3://bucket/a.tar!/b.jpg": "a URL",
        "a.tar!/b.jpg": "an image in an archive",
        "a.tar!/b!/c.jpg": "an image in an archive",
        "x.parquet#17": "a row of a Parquet file",
        "./-": "",
        "row.parquet#3": "",
        "b.tar!": "",
        "gone.tar!/b.jpg": "",
        "gone.jpg": "",
        "gone#1": "",
    }
    assert {name: not_a_local_file(name) for name in names} == names
