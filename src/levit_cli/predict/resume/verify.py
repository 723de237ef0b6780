"""Check the compatibility of an output: it is resumed only if this run would have written the same records."""

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from levit_cli.data.inputs import Input, is_url
from levit_cli.errors import UsageError
from levit_cli.predict.records import R, RecordFormat
from levit_cli.predict.resume.fingerprint import Fingerprint, differences, read_fingerprint
from levit_cli.predict.resume.plan import DamagedError, ExistingRecords, has_any_record
from levit_cli.system.atomic import read_at, writing
from levit_cli.system.output import OutputFile

SPOT_CHECK_IMAGES = 16  # images that are classified again if a file has no fingerprint
NOT_TOUCHED = "it was not touched; use --overwrite to replace it, or another output name to keep it"

Compute = Callable[[Iterable[Input]], Iterator[R]]


def compatible_records(
    output: OutputFile,
    format: RecordFormat[R],
    fingerprint: Fingerprint,
    compute: Compute[R],
    list_again: Callable[[], Iterable[Input]] = tuple,
    *,
    is_verified: bool = False,
) -> ExistingRecords | None:
    """Return the complete records of an output; None if it has none.

    Args:
        fingerprint: the fingerprint of this run.
        compute: computes results as this run does; used for the spot check of a file without a fingerprint.
        list_again: lists the inputs of this run, in which the spot check finds the members of archives.
        is_verified: the fingerprint was compared already, so a file without one needs no spot check.

    Raises:
        UsageError: the file is damaged, or its model, preprocessing, top-k or format differs from this run's.
    """
    stored = read_fingerprint(output.descriptor)
    if stored is not None and (differing := differences(stored, fingerprint)):
        why = ", ".join(differing)
        raise UsageError(f"{output.name} was written with other settings", why=why, hint=NOT_TOUCHED)
    existing = _read(output, format)
    if not len(existing):
        return None
    if stored is None and not is_verified:
        _spot_check(output, format, existing, compute, list_again)
    return existing


def require_shared_inputs(output: OutputFile, existing: ExistingRecords, inputs: Iterable[Input]) -> None:
    """Check that at least one input has a record, unless no record is a prediction.

    Raises:
        UsageError: all records belong to other inputs, so none of them would be kept.
    """
    if any(existing.is_ok) and not has_any_record(existing, inputs):
        raise UsageError(f"{output.name} contains only records of other inputs", hint=NOT_TOUCHED)


def _read(output: OutputFile, format: RecordFormat[R]) -> ExistingRecords:
    try:
        with writing(output.name), os.fdopen(os.dup(output.descriptor), "rb") as file:
            file.seek(0)
            return ExistingRecords(file, format)
    except DamagedError as error:
        raise UsageError(f"Cannot resume {output.name}", why=str(error), hint=NOT_TOUCHED) from error


def _spot_check(
    output: OutputFile,
    format: RecordFormat[R],
    existing: ExistingRecords,
    compute: Compute[R],
    list_again: Callable[[], Iterable[Input]],
) -> None:
    """Classify some images again and compare their records."""
    samples = dict(_samples(output, format, existing))
    if not samples:
        return
    is_same: dict[str, bool] = {}
    for result in compute(_inputs_of(samples, list_again)):
        if result.error is None:  # an archive may have several members with the same path
            is_same[result.path] = is_same.get(result.path, False) or format.encode(result) == samples[result.path]
    if differing := next((path for path, same in is_same.items() if not same), None):
        raise UsageError(
            f"{output.name} was written with other settings",
            why=f"the result of {differing} is different now, because the model, the preprocessing, the "
            "precision or the image has changed",
            hint=NOT_TOUCHED,
        )
    if not is_same:
        raise UsageError(
            f"Cannot resume {output.name}",
            why="it has no fingerprint, and none of its images can be read to compare results",
            hint=NOT_TOUCHED,
        )


def _inputs_of(paths: Iterable[str], list_again: Callable[[], Iterable[Input]]) -> Iterator[Input]:
    """Yield the inputs with these paths. Those that are no files of their own are looked up in the list of inputs."""
    others = {path for path in paths if not is_url(path) and not os.path.lexists(path)}
    yield from (Input(path) for path in paths if path not in others)
    if others:
        yield from (item for item in list_again() if item.path in others)


def _samples(output: OutputFile, format: RecordFormat[R], existing: ExistingRecords) -> Iterator[tuple[str, bytes]]:
    """Yield paths and records of predictions that are spread over the whole file."""
    ok = np.flatnonzero(np.frombuffer(existing.is_ok, np.uint8))
    positions = np.linspace(0, max(len(ok) - 1, 0), SPOT_CHECK_IMAGES, dtype=int)
    for number in np.unique(ok[positions] if len(ok) else ok).tolist():
        start, end = existing.offsets[number : number + 2]
        with writing(output.name):
            record = read_at(output.descriptor, end - start, start)
        item = Input(format.decode(record).path)
        if not item.is_stdin:
            yield item.path, record
