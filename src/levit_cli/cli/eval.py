"""``levit eval``: how good a model is on images whose classes are known."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import Result, handle_errors
from levit_cli.system.progress import log


@handle_errors
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder of images for each class, or val/ or test/ with those inside."),
    ],
    model: options.ModelOption = options.DEFAULT_MODEL,
    format: Annotated[
        Literal["table", "json"] | None,
        typer.Option("--format", "-f", help="Default: the suffix of -o, else table.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of stdout.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="One HTML page with charts and images.", show_default=False),
    ] = None,
    overwrite: options.OverwriteOption = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Store the fitted temperature in the model's folder, for predict.")
    ] = False,
    fail_under: Annotated[
        float | None,
        typer.Option(metavar="ACC", min=0, max=1, help="Exit 1 if top-1 is below, such as 0.9.", show_default=False),
    ] = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at once.")] = 16,
    threads: options.ThreadsOption = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that decode. 0 is as many as cores.", show_default="cores")
    ] = 0,
    labels: options.LabelsOption = None,
    preprocessing: options.PreprocessingOption = None,
    decode: Annotated[
        choices.Decoding, typer.Option(help="fast lets the JPEG decoder scale large photos down.")
    ] = "exact",
    sha256: options.Sha256Option = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    offline: options.OfflineOption = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours in the table.")] = False,
) -> Result:
    """Measure a model: accuracy with intervals, per class, confusion, calibration, the surest mistakes.

    levit eval flowers/val -m runs/flowers

    levit eval flowers/val -m runs/flowers --report report.html --fail-under 0.9

    levit eval photos/ -m demo --format json | jq .top1.value
    """
    from levit_cli.engines import EngineSpec
    from levit_cli.eval.run import EvalRequest, run
    from levit_cli.predict.model import ModelOptions

    del debug  # used by the error handler
    request = EvalRequest(
        folder,
        ModelOptions(model, labels, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        decoding=decode,
        batch_size=batch_size,
        workers=workers,
        format=format,
        output=output,
        report=report,
        overwrite=overwrite,
        calibrate=calibrate,
        fail_under=fail_under,
        color=not no_color,
        quiet=quiet,
        verbose=verbose,
    )
    return run(request, log)
