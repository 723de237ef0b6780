"""``levit info``: describe a checkpoint."""

from typing import Annotated, Literal

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A variant (levit-128S … levit-384), 'demo', a hub id owner/name[@rev], a path, or an https:// URL.",
        ),
    ],
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    format: Annotated[
        Literal["table", "json"],
        typer.Option("--format", "-f", rich_help_panel=options.OUTPUT, help="Output format."),
    ] = "table",
    preprocessing: options.PreprocessingOption = None,
    offline: options.OfflineOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Show a checkpoint's architecture, parameters, MACs, labels, preprocessing, hash and format.

    Examples:
        levit info demo
        levit info facebook/levit-128S --format json
    """
    from levit_cli.checkpoints import load
    from levit_cli.info import as_json, as_text, describe
    from levit_cli.system.output import Sink

    del debug  # read by handle_errors
    checkpoint = load(
        model,
        preprocessing=preprocessing,
        labels=labels,
        sha256=sha256,
        offline=offline,
        warn=lambda text: log(f"Warning: {text}"),
    )
    facts = describe(checkpoint)
    with Sink(None) as sink:
        sink.write((as_json(facts) if format == "json" else as_text(facts)).encode())
    return ExitCode.OK
