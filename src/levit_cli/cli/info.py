"""``levit info``: what a checkpoint is."""

from typing import Annotated, Literal

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for predict --model.")],
    format: Annotated[Literal["table", "json"], typer.Option("--format", "-f", help="How to say it.")] = "table",
    labels: options.LabelsOption = None,
    preprocessing: options.PreprocessingOption = None,
    sha256: options.Sha256Option = None,
    offline: options.OfflineOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Show architecture, parameters, MACs, labels, preprocessing, hash and format of a checkpoint.

    levit info demo

    levit info facebook/levit-128S --format json
    """
    from levit_cli.checkpoints import load
    from levit_cli.info import as_json, as_text, describe
    from levit_cli.system.output import Sink

    del debug  # the door looks at it
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
