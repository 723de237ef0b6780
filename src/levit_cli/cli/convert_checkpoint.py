"""``levit convert-checkpoint``: any format to any, with the proof."""

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
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model, as for predict --model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DST", help="A folder, or a file ending in .safetensors or .pth.")
    ],
    to: Annotated[choices.CheckpointFormat, typer.Option("--to", help="Hugging Face, timm, or Meta's.")],
    dtype: Annotated[
        choices.Dtype | None, typer.Option(help="Of the weights.", show_default="that of the source")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average from a training checkpoint.")] = False,
    labels: options.LabelsOption = None,
    preprocessing: options.PreprocessingOption = None,
    resize_to: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", help="Shortest edge before the crop, where no preprocessing has it.", show_default=False
        ),
    ] = None,
    sha256: options.Sha256Option = None,
    overwrite: options.OverwriteOption = False,
    offline: options.OfflineOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Translate a checkpoint and prove it.

    levit convert-checkpoint LeViT-256.pth -o levit-256/ --to hf

    levit convert-checkpoint facebook/levit-192 -o levit_192.safetensors --to timm

    levit convert-checkpoint levit-256/ -o LeViT-256.pth --to fb
    """
    from levit_cli.checkpoints import load
    from levit_cli.convert import convert, with_shortest_edge
    from levit_cli.system.output import Sink

    del debug  # the door looks at it
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
