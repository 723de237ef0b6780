"""Which records stand, and for which of the inputs of today."""

import io
import tracemalloc
from collections.abc import Iterable

import pytest

from levit_cli.data.inputs import Input
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Prediction, Ranked
from levit_cli.predict.records import RecordFormat, record_format
from levit_cli.predict.resume.plan import DamagedError, Due, Plan, Standing, has_any

LABELS = Labels(("cat", "dog"))


def format_of(name: str = "jsonl") -> RecordFormat:
    format = record_format(name, LABELS, 1)  # type: ignore[arg-type]
    assert format is not None
    return format


def content_of(paths: Iterable[str], format: RecordFormat) -> bytes:
    """Records of which those with an x in their path are errors."""
    records = [
        Prediction(path, error=InputError("truncated", "cut")) if "x" in path else Prediction(path, (Ranked(0, 0.5),))
        for path in paths
    ]
    return format.header + b"".join(map(format.encode, records))


def standing(paths: Iterable[str]) -> Standing:
    return Standing(io.BytesIO(content_of(paths, format_of())), format_of())


def planned(old: Iterable[str], new: Iterable[str]) -> tuple[list[str], list[Due]]:
    plan = Plan(standing(old), [Input(path) for path in new])
    return [item.path for item in plan], list(plan.due)


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv"])
def test_a_file_is_known_by_its_records_and_a_torn_one_is_left_out(name: str) -> None:
    format = format_of(name)
    content = content_of("abx", format)
    torn = format.encode(Prediction("c\nd", (Ranked(0, 0.5),)))
    for cut in (content, content + torn[:5], content + torn[:-1]):
        found = Standing(io.BytesIO(cut), format)
        assert (len(found), found.end, bytes(found.is_ok)) == (3, len(content), b"\1\1\0")
        assert found.places[3] == found.end


@pytest.mark.parametrize("name", ["csv", "tsv"])
def test_a_torn_header_is_no_header_and_another_one_is_told(name: str) -> None:
    format = format_of(name)
    assert Standing(io.BytesIO(format.header[:-1]), format).end == 0
    with pytest.raises(DamagedError, match="it begins with b'path,status,err"):
        Standing(io.BytesIO(b"path,status,error,prob1\n"), format)


def test_damage_amid_the_file_is_told_with_its_place() -> None:
    format = format_of()
    content = content_of("abc", format).splitlines(keepends=True)
    with pytest.raises(DamagedError, match="record 2: it is no record"):
        Standing(io.BytesIO(content[0] + b"\0\0\0\n" + content[2]), format)


@pytest.mark.parametrize(
    ("old", "new", "classified", "due"),
    [
        ("", "ab", "ab", [Due([]), Due([]), Due([])]),
        ("ab", "abcd", "cd", [Due([(0, 2)]), Due([]), Due([])]),
        ("ab", "ab", "", [Due([(0, 2)])]),
        ("axb", "axbc", "xc", [Due([(0, 1)], 1), Due([(2, 3)]), Due([])]),
        ("xy", "xy", "x", [Due([], 0), Due([(1, 2)])]),
        ("ac", "abc", "b", [Due([(0, 1)]), Due([(1, 2)])]),  # one came
        ("abc", "ac", "", [Due([(0, 1), (2, 3)])]),  # one went
        ("abc", "cba", "", [Due([(2, 3), (1, 2), (0, 1)])]),
        ("abc", "d", "d", [Due([]), Due([])]),
        ("aba", "aab", "", [Due([(0, 1), (2, 3), (1, 2)])]),  # each mention has its own record
        ("a", "aa", "a", [Due([(0, 1)]), Due([])]),
        ("ab", "bbab", "bb", [Due([(1, 2)]), Due([(0, 1)]), Due([])]),
    ],
)
def test_inputs_keep_their_records_and_the_rest_is_classified(
    old: str, new: str, classified: str, due: list[Due]
) -> None:
    assert planned(old, new) == (list(classified), due)


def test_any_record_of_any_input_is_enough_to_share() -> None:
    assert has_any(standing("abc"), [Input("a")])
    assert has_any(standing("abc"), [Input("z"), Input("c")])
    assert not has_any(standing("abc"), [Input("z"), Input("y")])
    assert not has_any(standing("abc"), [])


def test_names_that_are_not_utf8_are_found_again() -> None:
    assert planned(["caf\udce9", "é"], ["caf\udce9", "é"])[0] == []


def test_memory_does_not_hold_the_records() -> None:
    number = 5_000
    format = format_of()
    content = content_of((f"{'long' * 20}/{name}" for name in range(number)), format)
    file = io.BytesIO(content)
    tracemalloc.start()
    found = Standing(file, format)
    list(Plan(found, (Input(f"{'long' * 20}/{name}") for name in reversed(range(number)))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * number
