"""``levit merge``: join the outputs of all shards of a run."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="The outputs of levit predict --shard I/N, all of the N shards."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=options.OUTPUT,
            help="Write the merged records to this file, in the format of the shards.",
        ),
    ],
    overwrite: options.OverwriteOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Merge the outputs of all shards, after checking that none is missing and none overlaps.

    Examples:
        levit predict photos/ --shard 1/2 -o a.jsonl
        levit predict photos/ --shard 2/2 -o b.jsonl
        levit merge a.jsonl b.jsonl -o photos.jsonl
    """
    del debug  # read by handle_errors
    from levit_cli.distributed.merge import merge_shards

    merge_shards(files, output, overwrite=overwrite, quiet=quiet, log=log)
    return ExitCode.OK
