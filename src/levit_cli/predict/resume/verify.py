"""What stands in an output file, once it is known that this run would have written it too."""

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from levit_cli.data.inputs import Input
from levit_cli.errors import UsageError
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.records import RecordFormat
from levit_cli.predict.resume.fingerprint import Note, differences, read_note
from levit_cli.predict.resume.plan import DamagedError, Standing, has_any
from levit_cli.system.atomic import writing
from levit_cli.system.output import OutputFile

WITNESSES = 16  # images that are classified again where a file has no note
UNTOUCHED = "it was not touched; --overwrite begins it anew, another name keeps it"

Classify = Callable[[Iterable[Input]], Iterator[Prediction]]


def standing_in(output: OutputFile, format: RecordFormat, note: Note, classify: Classify) -> Standing | None:
    """The whole records in an output; None where there are none.

    Args:
        note: what this run's answers depend on.
        classify: answers inputs as this run will. Asked where the file has no note of its own.

    Raises:
        UsageError: the file is damaged, or was made by another model, with another preprocessing, top-k or format.
    """
    earlier = read_note(output.descriptor)
    if earlier is not None and (found := differences(earlier, note)):
        raise UsageError(f"{output.name} was made otherwise", why=", ".join(found), hint=UNTOUCHED)
    standing = _read(output, format)
    if not len(standing):
        return None
    if earlier is None:
        _require_same_answers(output, format, standing, classify)
    return standing


def require_shared(output: OutputFile, standing: Standing, listed: Iterable[Input]) -> None:
    """Find out that the file belongs to other inputs altogether, none of whose answers would be kept.

    Raises:
        UsageError: no input has a record there.
    """
    if any(standing.is_ok) and not has_any(standing, listed):
        raise UsageError(f"{output.name} has records of other inputs only", hint=UNTOUCHED)


def _read(output: OutputFile, format: RecordFormat) -> Standing:
    try:
        with writing(output.name), os.fdopen(os.dup(output.descriptor), "rb") as file:
            file.seek(0)
            return Standing(file, format)
    except DamagedError as error:
        raise UsageError(f"{output.name} cannot be continued", why=str(error), hint=UNTOUCHED) from error


def _require_same_answers(output: OutputFile, format: RecordFormat, standing: Standing, classify: Classify) -> None:
    witnesses = dict(_witnesses(output, format, standing))
    if not witnesses:
        return
    answers = [answer for answer in classify(map(Input, witnesses)) if answer.error is None]
    for answer in answers:
        if format.encode(answer) != witnesses[answer.path]:
            raise UsageError(
                f"{output.name} was made otherwise",
                why=f"{answer.path} now has another answer: another model, preprocessing, precision or image",
                hint=UNTOUCHED,
            )
    if not answers:
        raise UsageError(
            f"{output.name} cannot be continued",
            why="it does not say what made it, and no image in it is there any more to compare the answer",
            hint=UNTOUCHED,
        )


def _witnesses(output: OutputFile, format: RecordFormat, standing: Standing) -> Iterator[tuple[str, bytes]]:
    """Some answers, from all over the file: paths and records."""
    good = np.flatnonzero(np.frombuffer(standing.is_ok, np.uint8))
    places = np.linspace(0, max(len(good) - 1, 0), WITNESSES, dtype=int)
    for number in np.unique(good[places] if len(good) else good).tolist():
        start, end = standing.places[number : number + 2]
        with writing(output.name):
            record = os.pread(output.descriptor, end - start, start)
        item = Input(format.decode(record).path)
        if not item.is_stdin:
            yield item.path, record
