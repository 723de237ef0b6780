"""One run of ``levit eval``: what can be refused for free is refused first, results are written when all are there."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from levit_cli.checkpoints import Checkpoint, own_folder
from levit_cli.checkpoints.metadata import store_temperature
from levit_cli.data.image_folder import LAYOUT, VAL_NAMES, ClassFolders, class_folders
from levit_cli.errors import ExitCode, OutputError, UsageError
from levit_cli.eval.evaluate import Evaluated, evaluate
from levit_cli.eval.json_document import document
from levit_cli.eval.report import as_html
from levit_cli.eval.results import Summary
from levit_cli.eval.summarize import summarize
from levit_cli.eval.table import as_table
from levit_cli.eval.wording import percent
from levit_cli.predict.records import as_json
from levit_cli.predict.request import Request, closing_line, load_model
from levit_cli.predict.run_description import describe_run
from levit_cli.system.atomic import same_file
from levit_cli.system.output import choose_format, is_terminal, require_free, write_output
from levit_cli.system.progress import Log, progress, shows_progress

Form = Literal["table", "json"]
BY_SUFFIX: dict[str, Form] = {"": "table", ".txt": "table", ".json": "json"}


@dataclass(frozen=True)
class Wish:
    """What was asked for; the options of ``levit eval``, see there.

    Args:
        run: what ``predict`` would be asked: model, engine, output and how much to say. Its inputs are not looked at.
    """

    folder: Path
    run: Request
    form: Form | None = None
    report: Path | None = None
    calibrate: bool = False
    fail_under: float | None = None


class Verdict(NamedTuple):
    """How the run ended, holding on to the engine as ``classifying.Outcome`` does."""

    exit_code: ExitCode
    evaluated: Evaluated
    summary: Summary


def run(wish: Wish, log: Log) -> Verdict:
    """Evaluate a model on a folder and write what was found.

    Args:
        say: told what people should know; stderr.

    Raises:
        LevitError: nothing was evaluated, or the results could not be written.
    """
    form = _form(wish)
    store = _require_store(wish)
    folders = _class_folders(wish, log)
    _require_outputs(wish, folders)
    checkpoint = load_model(wish.run, log)
    evaluated = _evaluated(wish, checkpoint, folders, log)
    summary = summarize(evaluated)
    _write(wish, form, checkpoint, evaluated, summary)
    stored = _store(store, summary, wish, log) if store else True
    passed = _passes(wish, summary, log)
    good = passed and stored and not evaluated.failures
    return Verdict(ExitCode.OK if good else ExitCode.SOME_FAILED, evaluated, summary)


def _form(wish: Wish) -> Form:
    suffix = wish.run.output.suffix.lower() if wish.run.output else ""
    hint = "--report makes the page" if suffix in (".html", ".htm") else ""
    return choose_format(wish.form, wish.run.output, BY_SUFFIX, "table", hint)


def _require_store(wish: Wish) -> Path | None:
    """The folder that is to keep the temperature, if one is."""
    if not wish.calibrate:
        return None
    folder = own_folder(wish.run.model)
    if folder is None:
        raise UsageError(
            f"There is no folder of yours in which {wish.run.model} could keep a temperature",
            why="--calibrate writes into the config.json of a model's folder",
            hint=f"levit convert-checkpoint {wish.run.model} -o FOLDER --to hf makes one",
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(f"Cannot store a temperature in {folder}", why="the folder may not be written to")
    return folder


def _class_folders(wish: Wish, log: Log) -> ClassFolders:
    """The class folders of what was named, or of the validation part inside it."""
    try:
        inside = next((wish.folder / name for name in VAL_NAMES if _holds_folders(wish.folder / name)), None)
        if inside and not wish.run.quiet:
            log(f"Evaluating on {inside}")
        return class_folders(inside or wish.folder)
    except OSError as error:
        raise UsageError(f"Cannot read {error.filename}", why=error.strerror or "", hint=LAYOUT) from error


def _holds_folders(folder: Path) -> bool:
    """Whether this can be a data set; a folder of images may as well be a class that is called ``test``."""
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def _require_outputs(wish: Wish, folders: ClassFolders) -> None:
    output, report = wish.run.output, wish.report
    images = [str(path) for path, _ in folders.samples]
    for file in (output, report):
        require_free(file, images, overwrite=wish.run.overwrite)
    if output and report and (output.resolve() == report.resolve() or same_file(str(output), str(report))):
        raise UsageError(f"-o and --report are the same file, {output}")


def _evaluated(wish: Wish, checkpoint: Checkpoint, folders: ClassFolders, log: Log) -> Evaluated:
    asked = wish.run
    with progress(shown=shows_progress(quiet=asked.quiet), total=len(folders.samples)) as bar:
        evaluated = evaluate(
            checkpoint,
            folders,
            asked.spec,
            decoding=asked.decoding,
            batch_size=asked.batch_size,
            workers=asked.workers,
            verbose=asked.verbose,
            log=log,
            advance=bar.advance,
        )
    if not asked.quiet:
        log(closing_line(evaluated.stats))
    return evaluated


def _write(wish: Wish, form: Form, checkpoint: Checkpoint, evaluated: Evaluated, summary: Summary) -> None:
    """The report first: who reads the rest may leave before its end. But the rest comes also where the report fails."""
    description = describe_run(checkpoint, evaluated.engine.spec, wish.run.decoding, wish.run.top_k, with_hash=True)
    if form == "json":
        content = as_json(document(evaluated, summary, description)) + b"\n"
    else:
        on_terminal = wish.run.output is None and is_terminal()
        content = as_table(evaluated, summary, description, is_terminal=on_terminal, color=wish.run.color).encode()
    try:
        if wish.report:
            write_output(wish.report, as_html(evaluated, summary, description).encode())
    finally:
        write_output(wish.run.output, content)


def _store(folder: Path, summary: Summary, wish: Wish, log: Log) -> bool:
    if summary.fitted is None:
        log("No temperature was stored · none fits: that takes right answers and wrong ones")
        return False
    file = store_temperature(folder, summary.fitted.temperature)
    if not wish.run.quiet:
        log(f"Temperature {summary.fitted.temperature:.4g} stored in {file}: predict divides the logits by it")
    return True


def _passes(wish: Wish, summary: Summary, log: Log) -> bool:
    """Whether top-1 reaches what was asked for; of no image it does not."""
    top1 = summary.top1
    if wish.fail_under is None or top1.value >= wish.fail_under:
        return True
    found = f"{percent(top1.value)}, {top1.correct:,} of {top1.total:,}"
    log(f"Failed: top-1 is below --fail-under {wish.fail_under:g} · it is {found}")
    return False
