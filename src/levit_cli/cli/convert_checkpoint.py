"""``levit convert-checkpoint``: convert a checkpoint between formats and verify the result."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def convert_checkpoint(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A variant (levit-128S … levit-384), 'demo', a hub id owner/name[@rev], a path, or an https:// URL.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DST",
            rich_help_panel=options.OUTPUT,
            help="Write to this folder, or to this file if it ends in .safetensors or .pth.",
        ),
    ],
    to: Annotated[
        choices.CheckpointFormat,
        typer.Option(
            "--to", rich_help_panel=options.OUTPUT, help="Format: Meta's (fb), timm's, or Hugging Face's (hf)."
        ),
    ],
    dtype: Annotated[
        choices.Dtype | None,
        typer.Option(rich_help_panel=options.OUTPUT, help="Data type of the weights.", show_default="from the source"),
    ] = None,
    overwrite: options.OverwriteOption = False,
    ema: Annotated[
        bool,
        typer.Option(
            "--ema",
            rich_help_panel=options.MODEL,
            help="Use the moving average of the weights that a training checkpoint holds.",
        ),
    ] = False,
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    preprocessing: options.PreprocessingOption = None,
    resize_to: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            show_default=False,
            rich_help_panel=options.PREPROCESSING,
            help="Resize the shorter edge to this size before the crop, if no published preprocessing does.",
        ),
    ] = None,
    offline: options.OfflineOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Convert a checkpoint to another format and verify the result.

    Examples:
        levit convert-checkpoint LeViT-256.pth -o levit-256/ --to hf
        levit convert-checkpoint facebook/levit-192 -o levit_192.safetensors --to timm
        levit convert-checkpoint levit-256/ -o LeViT-256.pth --to fb
    """
    from levit_cli.checkpoints import load
    from levit_cli.convert import convert, with_shortest_edge
    from levit_cli.system.output import Sink

    del debug  # read by handle_errors
    checkpoint = load(
        source, preprocessing=preprocessing, labels=labels, ema=ema, sha256=sha256, offline=offline,
        warn=lambda text: log(f"Warning: {text}"),
    )  # fmt: skip
    if resize_to is not None:
        checkpoint = with_shortest_edge(checkpoint, resize_to)
    report = convert(checkpoint, output, to, dtype, overwrite=overwrite)
    with Sink(None) as sink:
        sink.write(report.as_text().encode())
    return ExitCode.OK
