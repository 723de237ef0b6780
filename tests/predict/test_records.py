"""Records are decoded to the predictions that were encoded; anything else is rejected."""

import io
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_cli.choices import Format
from levit_cli.data.labels import Labels
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Prediction, Ranked
from levit_cli.predict.records import RESUMABLE, RecordFormat, record_format

LABELS = Labels(("cat", "dog, or wolf", 'a "quoted"\tone', "new\nline", "half \ud800"))
FORMATS: Sequence[Format] = RESUMABLE
NAMES = (
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"\0" not in raw)
    .map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)
ANSWERS = st.builds(
    Prediction,
    NAMES,
    st.lists(st.builds(Ranked, st.integers(0, 4), st.floats(0, 1)), min_size=2, max_size=2).map(tuple),
)
JUDGED = st.builds(
    lambda path, probs: Prediction(
        path, tuple(Ranked(index, prob) for index, prob in enumerate(probs)), accepted=probs[0] >= MIN_PROB
    ),
    NAMES,
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
MIN_PROB = 0.5
FAILURES = st.builds(
    Prediction, NAMES, error=st.builds(InputError, st.sampled_from(["truncated", "timeout"]), st.text(max_size=20))
)


def format_of(name: Format, top_k: int = 2, min_prob: float | None = None) -> RecordFormat[Prediction]:
    format = record_format(name, LABELS, top_k, min_prob)
    assert format is not None
    return format


def fields(prediction: Prediction) -> tuple[object, ...]:
    error = prediction.error
    return (
        prediction.path,
        tuple((index, round(prob, 6)) for index, prob in prediction.top),
        error and (error.kind, error.message.encode("utf-8", "replace")),
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(st.lists(ANSWERS | FAILURES, max_size=5))
def test_encoded_predictions_are_decoded(name: Format, predictions: list[Prediction]) -> None:
    format = format_of(name)
    content = format.header + b"".join(map(format.encode, predictions))
    records = list(format.split(io.BytesIO(content)))
    assert b"".join(records) == content
    decoded = [format.decode(record) for record in records[1 if format.header else 0 :]]
    assert list(map(fields, decoded)) == list(map(fields, predictions))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(st.lists(ANSWERS | FAILURES, min_size=1, max_size=3), st.data())
def test_truncated_record_is_not_yielded(name: Format, predictions: list[Prediction], data: st.DataObject) -> None:
    format = format_of(name)
    parts = [*([format.header] if format.header else []), *map(format.encode, predictions)]
    content = b"".join(parts)
    cut = data.draw(st.integers(0, len(content)))
    kept = list(format.split(io.BytesIO(content[:cut])))
    assert kept == parts[: len(kept)]
    assert cut - sum(map(len, kept)) < len(parts[min(len(kept), len(parts) - 1)])


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(st.lists(ANSWERS, min_size=1, max_size=1), st.data())
def test_changed_byte_is_rejected_or_gives_another_valid_record(
    name: Format, predictions: list[Prediction], data: st.DataObject
) -> None:
    format = format_of(name)
    record = bytearray(format.encode(predictions[0]))
    position = data.draw(st.integers(0, len(record) - 1))
    record[position] = data.draw(st.integers(0, 255))
    for part in format.split(io.BytesIO(bytes(record))):
        try:
            decoded = format.decode(part)
        except ValueError:
            continue
        assert format.encode(decoded) == part


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"\n", "it is not a (jsonl )?record"),
        (b"{}\n", "it is not a (jsonl )?record"),
        (b"[1]\n", "it is not a (jsonl )?record"),
        (b'{"path": 3}\n', "it is not a (jsonl )?record"),
        (b'"' * 99_999 + b"\n", "it is not a (jsonl )?record"),
        (b"[" * 99_999 + b"\n", "it is not a (jsonl )?record"),
        (b"\xff\xfe\0\n", "it is not a (jsonl )?record"),
        (b"a\tok\t\t1\n", "it is not a (jsonl )?record"),
        (b"a,error,what: ever,,,,,,\n", "it is not a (jsonl )?record"),
    ],
)
def test_invalid_records_are_rejected(name: Format, record: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        format_of(name).decode(record)


@pytest.mark.parametrize("name", FORMATS)
def test_records_with_another_top_k_or_other_labels_are_rejected(name: Format) -> None:
    record = format_of(name).encode(Prediction("a", (Ranked(1, 0.75), Ranked(4, 0.25))))
    with pytest.raises(ValueError, match="top-k is 2, this run's is 3"):
        format_of(name, top_k=3).decode(record)
    others = record_format(name, Labels(("cat", "DOG", "x", "y", "z")), 2)
    fewer = record_format(name, Labels(("cat", "dog, or wolf")), 2)
    assert others
    assert fewer
    with pytest.raises(ValueError, match="this model and its labels would write it differently"):
        others.decode(record)
    with pytest.raises(ValueError, match="a class that the model does not have"):
        fewer.decode(record)


@pytest.mark.parametrize("name", ["json", "table"])
def test_json_and_table_have_no_record_format(name: Format) -> None:
    assert record_format(name, LABELS, 2) is None


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(st.lists(JUDGED | FAILURES, min_size=1, max_size=5))
def test_with_a_threshold_records_say_whether_they_are_accepted(name: Format, predictions: list[Prediction]) -> None:
    format = format_of(name, min_prob=MIN_PROB)
    content = format.header + b"".join(map(format.encode, predictions))
    decoded = [format.decode(record) for record in [*format.split(io.BytesIO(content))][bool(format.header) :]]
    assert [each.accepted for each in decoded] == [each.accepted for each in predictions]


def judged(prob: float, accepted: bool | None) -> Prediction:
    return Prediction("a.jpg", (Ranked(0, prob), Ranked(1, 0.01)), accepted=accepted)


@pytest.mark.parametrize("name", FORMATS)
def test_accepted_is_the_last_column_and_the_last_key(name: Format) -> None:
    format = format_of(name, min_prob=0.8)
    failed = Prediction("b.jpg", error=InputError("timeout", "too slow"))
    accepted, rejected, error = (format.encode(each) for each in (judged(0.9, True), judged(0.1, False), failed))
    if name == "jsonl":
        assert accepted.endswith(b'], "accepted": true}\n')
        assert rejected.endswith(b'], "accepted": false}\n')
        assert b"accepted" not in error
    else:
        delimiter = {"csv": b",", "tsv": b"\t"}[name]
        assert format.header.endswith(delimiter + b"accepted\n")
        lines = (accepted, rejected, error)
        assert [line.strip(b"\n").split(delimiter)[-1] for line in lines] == [b"true", b"false", b""]


@pytest.mark.parametrize("name", FORMATS)
def test_records_of_another_threshold_are_rejected(name: Format) -> None:
    format, without = format_of(name, min_prob=0.8), format_of(name)
    near = judged(0.8000004, False)  # written as 0.800000, which does not tell
    assert format.decode(format.encode(near)).accepted is False
    for record in (judged(0.9, False), judged(0.7, True), judged(0.9, None)):
        with pytest.raises(ValueError, match=r"another threshold|--min-prob is 0\.8"):
            format.decode(format.encode(record))
    with pytest.raises(ValueError, match=r"not a record|--min-prob is None"):
        without.decode(format.encode(judged(0.9, True)))
    if name == "jsonl":
        with pytest.raises(ValueError, match="not a jsonl record"):
            format.decode(format.encode(judged(0.9, True)).replace(b"true}", b"1}"))
