"""``levit eval``: measure the accuracy of a model on class folders.

Checks run from cheap to expensive: the options, the images, the outputs, the model. The results are written after all
images are classified.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from levit_cli.checkpoints import Checkpoint, Threshold, own_folder
from levit_cli.checkpoints.metadata import store_temperature, store_threshold
from levit_cli.choices import Decoding, Resizer
from levit_cli.data.image_folder import ClassFolders, class_folders, validation_folder
from levit_cli.data.input import ImageColumns
from levit_cli.data.inputs import DEFAULT_COLUMNS, unused_columns
from levit_cli.data.labeled_files import is_labeled_file, read_labeled_file
from levit_cli.data.labeled_rows import is_parquet, read_labeled_rows
from levit_cli.data.skipped import Skipped
from levit_cli.engines import EngineSpec, keep_until_exit
from levit_cli.errors import ExitCode, OutputError, UsageError, raise_faults
from levit_cli.eval.evaluate import TOP_K, Evaluated, evaluate
from levit_cli.eval.json_document import document
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarize
from levit_cli.eval.table import as_table
from levit_cli.eval.wording import percent
from levit_cli.predict.model import ModelOptions, conflicts, load_model
from levit_cli.predict.records import as_json
from levit_cli.predict.run_description import RunDescription, describe_run
from levit_cli.system.atomic import same_file
from levit_cli.system.extras import extra
from levit_cli.system.output import choose_format, is_terminal, require_free, write_output
from levit_cli.system.progress import Log, progress, shows_progress
from levit_cli.system.text import count_noun

EvalFormat = Literal["table", "json"]
FEW_IMAGES = 200  # of 200 images of CIFAR-10, the fitted temperature is up to 15 % off
AsHtml = Callable[[Evaluated, Summary, RunDescription], str]
BY_SUFFIX: dict[str, EvalFormat] = {"": "table", ".txt": "table", ".json": "json"}


@dataclass(frozen=True)
class EvalRequest:
    """The options of ``levit eval``; its help describes them."""

    folder: Path
    model: ModelOptions
    spec: EngineSpec
    decoding: Decoding = "exact"
    resizer: Resizer = "auto"
    batch_size: int = 16
    workers: int = 0
    format: EvalFormat | None = None
    output: Path | None = None
    report: Path | None = None
    overwrite: bool = False
    calibrate: bool = False
    fail_under: float | None = None
    target_accuracy: float | None = None
    store_threshold: bool = False
    color: bool = True
    quiet: bool = False
    verbose: bool = False
    columns: ImageColumns = DEFAULT_COLUMNS


def run(request: EvalRequest, log: Log) -> ExitCode:
    """Evaluate a model on class folders and write the results.

    Returns:
        ``OK``, or ``SOME_FAILED`` if an image could not be read, top-1 is below ``fail_under``, no temperature could be
        stored, or no threshold reaches ``target_accuracy``.

    Raises:
        LevitError: nothing was evaluated, or the results could not be written.
    """
    format, model_folder = _require_consistent(request)
    folders = _class_folders(request, log)
    _require_outputs(request, folders)
    as_html = _load_report() if request.report else None
    checkpoint = load_model(request.model, log, verbose=request.verbose)
    evaluated = _evaluate(request, checkpoint, folders, log)
    keep_until_exit(evaluated.engine)
    summary = summarize(evaluated, target_accuracy=request.target_accuracy, calibrates=request.calibrate)
    _write(request, format, as_html, checkpoint, evaluated, summary)
    results = [
        not evaluated.failures,
        not request.calibrate or _store_temperature(model_folder, evaluated, summary, log, quiet=request.quiet),
        request.target_accuracy is None or _use_threshold(request, model_folder, summary, log),
        _reaches(request.fail_under, summary, log),
    ]
    return ExitCode.OK if all(results) else ExitCode.SOME_FAILED


def _require_consistent(request: EvalRequest) -> tuple[EvalFormat, Path | None]:
    """Return the output format, and with ``--calibrate`` or ``--store-threshold`` the model's folder.

    Raises:
        UsageError: options contradict each other or have no effect. The message names all faults.
    """
    faults = conflicts(request.model, request.spec, request.resizer)
    if not is_parquet(request.folder):
        faults += unused_columns(request.columns)
    if request.overwrite and request.output is None and request.report is None:
        hint = "add --output FILE or --report FILE, or leave it out"
        faults.append(UsageError("--overwrite has no effect without --output or --report", hint=hint))
    faults += _threshold_faults(request)
    results: list[Any] = [None, None]
    for number, check in enumerate((_format, _model_folder)):
        try:
            results[number] = check(request)
        except UsageError as error:
            faults.append(error)
    raise_faults(faults)
    return results[0], results[1]


def _threshold_faults(request: EvalRequest) -> Iterator[UsageError]:
    target = request.target_accuracy
    if target is not None and not 0 < target < 1:
        yield UsageError(f"--target-accuracy must be above 0 and below 1, not {target}", hint="such as 0.95")
    if not request.store_threshold:
        return
    if target is None:
        yield UsageError("--store-threshold needs --target-accuracy", hint="add --target-accuracy 0.95, for example")
    if request.model.preprocessing is not None:
        yield UsageError(
            "--store-threshold cannot be combined with --preprocessing",
            why="predict uses a stored threshold with the model's own preprocessing only",
            hint="leave --preprocessing out, or write such a model with levit convert-checkpoint --preprocessing",
        )


def _format(request: EvalRequest) -> EvalFormat:
    suffix = request.output.suffix.lower() if request.output else ""
    hint = "use --report for an HTML page" if suffix in (".html", ".htm") else ""
    return choose_format(request.format, request.output, BY_SUFFIX, "table", hint)


def _load_report() -> AsHtml:
    """Import the code of the report. This is done before any work, because its libraries may be missing or broken."""
    with extra("plot", "The report"):
        from levit_cli.eval.report import as_html
    return as_html


def _model_folder(request: EvalRequest) -> Path | None:
    """Return the model's local folder, in which a temperature or a threshold will be stored."""
    if not request.calibrate and not request.store_threshold:
        return None
    model = request.model.name
    option, what = ("--calibrate", "temperature") if request.calibrate else ("--store-threshold", "threshold")
    folder = own_folder(model)
    if folder is None:
        raise UsageError(
            f"Cannot store a {what} for {model}",
            why=f"{option} writes into the config.json of a local model folder, and this model has none",
            hint=f"create one with: levit convert-checkpoint {model} -o FOLDER --to hf",
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(f"Cannot store a {what} in {folder}", why="the folder is not writable")
    return folder


def _class_folders(request: EvalRequest, log: Log) -> ClassFolders:
    """Return the labeled images in the named folder or file, or in the validation folder inside it."""
    skipped = Skipped(log if request.verbose and not request.quiet else None)
    if is_parquet(request.folder):
        folders, is_part = read_labeled_rows(request.folder, request.columns, skipped), False
    elif is_labeled_file(request.folder):
        train, val, is_val = read_labeled_file(request.folder, skipped)
        folders, is_part = val or train, is_val or val is not None
    else:
        validation = validation_folder(request.folder)
        folders, is_part = class_folders(validation or request.folder, skipped), validation is not None
    if is_part and not request.quiet:
        log(f"Evaluating on {folders.root}")
    if not request.quiet and (sentence := skipped.sentence()):
        log(sentence)
    return folders


def _require_outputs(request: EvalRequest, folders: ClassFolders) -> None:
    output, report = request.output, request.report
    images = [str(request.folder), *(image.path for image, _ in folders.samples)]
    for file in (output, report):
        require_free(file, images, overwrite=request.overwrite)
    if output and report and (output.resolve() == report.resolve() or same_file(str(output), str(report))):
        raise UsageError(f"--output and --report are the same file, {output}", hint="give them different names")


def _evaluate(request: EvalRequest, checkpoint: Checkpoint, folders: ClassFolders, log: Log) -> Evaluated:
    with progress(shown=shows_progress(quiet=request.quiet), total=len(folders.samples)) as bar:
        evaluated = evaluate(
            checkpoint,
            folders,
            request.spec,
            decoding=request.decoding,
            resizer=request.resizer,
            batch_size=request.batch_size,
            workers=request.workers,
            verbose=request.verbose,
            log=log,
            on_image=bar.advance,
        )
    if not request.quiet:
        log(evaluated.stats.summary() + evaluated.stats.decoding_hint(evaluated.reader.large_jpeg_s))
    return evaluated


def _write(
    request: EvalRequest,
    format: EvalFormat,
    as_html: AsHtml | None,
    checkpoint: Checkpoint,
    evaluated: Evaluated,
    summary: Summary,
) -> None:
    """Write the report, then the results.

    The report is written first, because the program that reads standard output may close it early. The results are
    written even if the report cannot be.
    """
    description = describe_run(checkpoint, evaluated.engine.spec, evaluated.reader, TOP_K, with_hash=True)
    if format == "json":
        content = as_json(document(evaluated, summary, description)) + b"\n"
    else:
        on_terminal = request.output is None and is_terminal()
        content = as_table(evaluated, summary, description, is_terminal=on_terminal, color=request.color).encode()
    try:
        if request.report and as_html:
            write_output(request.report, as_html(evaluated, summary, description).encode())
    finally:
        write_output(request.output, content)


def _store_temperature(folder: Path | None, evaluated: Evaluated, summary: Summary, log: Log, *, quiet: bool) -> bool:
    assert folder is not None
    if summary.fitted is None:
        log("No temperature was stored · fitting one requires both correct and wrong predictions")
        return False
    file = store_temperature(folder, summary.fitted.temperature)
    if not quiet:
        log(f"Stored temperature {summary.fitted.temperature:.4g} in {file}; predict divides the logits by it")
        if evaluated.threshold is not None:
            log(f"Removed the stored threshold {evaluated.threshold:g} · it was chosen with the earlier temperature")
        if (total := summary.top1.total) < FEW_IMAGES:
            fitted = f"it was fitted to {count_noun(total, 'image')}"
            log(f"Warning: the temperature is uncertain · {fitted}, and with fewer than {FEW_IMAGES} it may be far off")
    return True


def _use_threshold(request: EvalRequest, folder: Path | None, summary: Summary, log: Log) -> bool:
    """Store the threshold that reaches the target accuracy, if requested; report if there is none."""
    coverage, target = summary.coverage, request.target_accuracy
    found = coverage.target if coverage else None
    if coverage is None or found is None or found.chosen is None:
        stored = ", and none was stored" if request.store_threshold else ""
        hint = "use more images, or a lower target"
        log(f"Failed: no threshold reaches --target-accuracy {target:g}{stored} · {hint}")
        return False
    if folder is not None and request.store_threshold:
        point = found.chosen
        counts = (point.images, point.accepted.total, point.accepted.correct)
        file = store_threshold(folder, Threshold(point.threshold, coverage.temperature, found.accuracy, *counts))
        if not request.quiet:
            log(f"Stored threshold {point.threshold:g} in {file}; predict then says which predictions are accepted")
    return True


def _reaches(fail_under: float | None, summary: Summary, log: Log) -> bool:
    """Whether top-1 is at least ``fail_under``; False if no image could be read."""
    top1 = summary.top1
    if fail_under is None or top1.value >= fail_under:
        return True
    measured = f"it is {percent(top1.value)}, {top1.correct:,} of {count_noun(top1.total, 'image')}"
    log(f"Failed: top-1 is below --fail-under {fail_under:g} · {measured}")
    return False
