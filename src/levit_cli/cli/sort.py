"""``levit sort``: sort images into a folder per label, and put them back."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode, UsageError
from levit_cli.system.progress import log

SORTING = "Sorting"


@handle_errors
def sort(
    results: Annotated[
        Path | None,
        typer.Argument(metavar="RESULTS", help="An output of levit predict: jsonl, json, csv, tsv or Parquet."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            show_default=False,
            rich_help_panel=SORTING,
            help="Folder that gets a folder for each label. It may exist; nothing in it is overwritten.",
        ),
    ] = None,
    mode: Annotated[
        choices.SortMode,
        typer.Option(
            rich_help_panel=SORTING,
            help="Copy the images, move them, or make hard links (link) or symbolic links (symlink).",
        ),
    ] = "copy",
    min_prob: Annotated[
        float | None,
        typer.Option(
            "--min-prob",
            min=0,
            max=1,
            metavar="P",
            show_default=False,
            rich_help_panel=SORTING,
            help="Sort images whose first probability is lower into the folder _uncertain. Without this option, what "
            "levit predict --min-prob did not accept goes there.",
        ),
    ] = None,
    include_changed: Annotated[
        bool,
        typer.Option(
            "--include-changed",
            rich_help_panel=SORTING,
            help="Also sort files that were changed after RESULTS was written. Without this option they are reported.",
        ),
    ] = False,
    undo: Annotated[
        Path | None,
        typer.Option(
            "--undo",
            metavar="DIR",
            show_default=False,
            rich_help_panel=SORTING,
            help="Put back everything that was sorted into DIR, except files that were changed since.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", rich_help_panel=SORTING, help="Only print what would be done."),
    ] = False,
    format: Annotated[
        choices.SortFormat | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Print a line for each file: table or jsonl. The default is nothing; with --dry-run it is table on a "
            "terminal, else jsonl.",
        ),
    ] = None,
    quiet: options.QuietOption = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", rich_help_panel=options.GENERAL, help="Name each file that is skipped or fails."
        ),
    ] = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Sort images into a folder per label, by the results of levit predict; or put them back.

    Examples:
        levit sort results.jsonl --to sorted/ --dry-run
        levit sort results.jsonl --to sorted/
        levit sort results.csv --to sorted/ --min-prob 0.8 --mode move
        levit sort --undo sorted/
    """
    from levit_cli.sort.run import SortDisplay, SortOptions, put_back
    from levit_cli.sort.run import sort as run

    del debug  # read by handle_errors
    display = SortDisplay(format, quiet, verbose)
    if undo is not None:
        if results is not None or to is not None:
            raise UsageError("--undo takes no RESULTS and no --to", hint="levit sort --undo DIR")
        return put_back(undo, display, log, dry_run=dry_run)
    if results is None or to is None:
        missing = "RESULTS" if results is None else "--to DIR"
        raise UsageError(f"{missing} is missing", hint="levit sort RESULTS --to DIR, or levit sort --undo DIR")
    return run(results, to, SortOptions(mode, min_prob, include_changed, dry_run), display, log)
