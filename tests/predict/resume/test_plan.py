"""Existing records are read, and inputs without a record are planned."""

import io
import tracemalloc
from collections.abc import Iterable

import pytest

from levit_cli.data.inputs import Input
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Prediction, Ranked
from levit_cli.predict.records import RecordFormat, record_format
from levit_cli.predict.resume.plan import DamagedError, ExistingRecords, PendingSlot, Plan, has_any_record

LABELS = Labels(("cat", "dog"))


def format_of(name: str = "jsonl") -> RecordFormat[Prediction]:
    format = record_format(name, LABELS, 1)  # type: ignore[arg-type]
    assert format is not None
    return format


def content_of(paths: Iterable[str], format: RecordFormat[Prediction]) -> bytes:
    """Return the records of paths; those of paths with an x are error records."""
    records = [
        Prediction(path, error=InputError("truncated", "cut")) if "x" in path else Prediction(path, (Ranked(0, 0.5),))
        for path in paths
    ]
    return format.header + b"".join(map(format.encode, records))


def existing(paths: Iterable[str]) -> ExistingRecords:
    return ExistingRecords(io.BytesIO(content_of(paths, format_of())), format_of())


def planned(old: Iterable[str], new: Iterable[str]) -> tuple[list[str], list[PendingSlot]]:
    plan = Plan(existing(old), [Input(path) for path in new])
    return [item.path for item in plan], list(plan.pending)


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv"])
def test_complete_records_are_read_and_a_torn_one_is_ignored(name: str) -> None:
    format = format_of(name)
    content = content_of("abx", format)
    torn = format.encode(Prediction("c\nd", (Ranked(0, 0.5),)))
    for cut in (content, content + torn[:5], content + torn[:-1]):
        records = ExistingRecords(io.BytesIO(cut), format)
        assert (len(records), records.end, bytes(records.is_ok)) == (3, len(content), b"\1\1\0")
        assert records.offsets[3] == records.end


@pytest.mark.parametrize("name", ["csv", "tsv"])
def test_torn_header_is_ignored_and_another_header_is_an_error(name: str) -> None:
    format = format_of(name)
    assert ExistingRecords(io.BytesIO(format.header[:-1]), format).end == 0
    with pytest.raises(DamagedError, match="it begins with b'path,status,err"):
        ExistingRecords(io.BytesIO(b"path,status,error,prob1\n"), format)


def test_damaged_record_is_an_error_with_its_number() -> None:
    format = format_of()
    content = content_of("abc", format).splitlines(keepends=True)
    with pytest.raises(DamagedError, match="record 2: it is not a jsonl record"):
        ExistingRecords(io.BytesIO(content[0] + b"\0\0\0\n" + content[2]), format)


@pytest.mark.parametrize(
    ("old", "new", "classified", "pending"),
    [
        ("", "ab", "ab", [PendingSlot([]), PendingSlot([]), PendingSlot([])]),
        ("ab", "abcd", "cd", [PendingSlot([(0, 2)]), PendingSlot([]), PendingSlot([])]),
        ("ab", "ab", "", [PendingSlot([(0, 2)])]),
        ("axb", "axbc", "xc", [PendingSlot([(0, 1)], 1), PendingSlot([(2, 3)]), PendingSlot([])]),
        ("xy", "xy", "x", [PendingSlot([], 0), PendingSlot([(1, 2)])]),
        ("ac", "abc", "b", [PendingSlot([(0, 1)]), PendingSlot([(1, 2)])]),  # a file was added
        ("abc", "ac", "", [PendingSlot([(0, 1), (2, 3)])]),  # a file was removed
        ("abc", "cba", "", [PendingSlot([(2, 3), (1, 2), (0, 1)])]),
        ("abc", "d", "d", [PendingSlot([]), PendingSlot([])]),
        ("aba", "aab", "", [PendingSlot([(0, 1), (2, 3), (1, 2)])]),  # a path that is listed twice has two records
        ("a", "aa", "a", [PendingSlot([(0, 1)]), PendingSlot([])]),
        ("ab", "bbab", "bb", [PendingSlot([(1, 2)]), PendingSlot([(0, 1)]), PendingSlot([])]),
    ],
)
def test_inputs_keep_their_records_and_all_others_are_classified(
    old: str, new: str, classified: str, pending: list[PendingSlot]
) -> None:
    assert planned(old, new) == (list(classified), pending)


def test_has_any_finds_one_record_of_any_input() -> None:
    assert has_any_record(existing("abc"), [Input("a")])
    assert has_any_record(existing("abc"), [Input("z"), Input("c")])
    assert not has_any_record(existing("abc"), [Input("z"), Input("y")])
    assert not has_any_record(existing("abc"), [])


def test_names_that_are_not_utf8_are_matched() -> None:
    assert planned(["caf\udce9", "é"], ["caf\udce9", "é"])[0] == []


def test_records_are_not_held_in_memory() -> None:
    number = 5_000
    format = format_of()
    content = content_of((f"{'long' * 20}/{name}" for name in range(number)), format)
    file = io.BytesIO(content)
    tracemalloc.start()
    records = ExistingRecords(file, format)
    list(Plan(records, (Input(f"{'long' * 20}/{name}") for name in reversed(range(number)))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * number
