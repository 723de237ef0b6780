"""``levit eval``: measure a model on labeled images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

EVALUATION = "Evaluation"


@handle_errors
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with one subfolder of images per class, directly or inside val/ or test/. "
            "Or a .tar or .zip archive of such a folder, or a .csv file with the columns path and label.",
        ),
    ],
    model: options.ModelOption = options.DEFAULT_MODEL,
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    image_column: options.ImageColumnOption = None,
    key_column: options.KeyColumnOption = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            rich_help_panel=EVALUATION,
            help="Fit a temperature and store it in the model's folder. predict then divides the logits by it.",
        ),
    ] = False,
    fail_under: Annotated[
        float | None,
        typer.Option(
            metavar="ACC",
            min=0,
            max=1,
            show_default=False,
            rich_help_panel=EVALUATION,
            help="Exit with code 1 if top-1 accuracy is below this value, such as 0.9.",
        ),
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="ACC",
            show_default=False,
            rich_help_panel=EVALUATION,
            help="Find the smallest threshold for predict --min-prob whose accuracy on accepted images has a lower "
            "confidence bound of at least this value, such as 0.95. Exit with code 1 if there is none.",
        ),
    ] = None,
    store_threshold: Annotated[
        bool,
        typer.Option(
            "--store-threshold",
            rich_help_panel=EVALUATION,
            help="Store the threshold of --target-accuracy in the model's folder. predict then uses it.",
        ),
    ] = False,
    format: Annotated[
        Literal["table", "json"] | None,
        typer.Option(
            "--format",
            "-f",
            rich_help_panel=options.OUTPUT,
            help="Output format. The default follows the suffix of -o. Without -o it is table.",
            show_default=False,
        ),
    ] = None,
    output: options.OutputOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Write an HTML page with charts and the most confident errors.",
        ),
    ] = None,
    overwrite: options.OverwriteOption = False,
    preprocessing: options.PreprocessingOption = None,
    decode: options.DecodeOption = "exact",
    resizer: options.ResizerOption = "auto",
    workers: options.WorkersOption = 0,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 16,
    threads: options.ThreadsOption = 0,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    no_color: options.NoColorOption = False,
) -> ExitCode:
    """Measure a model's accuracy and calibration on labeled images.

    Examples:
        levit eval flowers/val -m runs/flowers
        levit eval flowers/val -m runs/flowers --report report.html --fail-under 0.9
        levit eval photos/ -m demo --format json | jq .top1.value
        levit eval val/ -m runs/a --target-accuracy 0.95 --store-threshold
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.engines import EngineSpec
    from levit_cli.eval.run import EvalRequest, run
    from levit_cli.predict.model import ModelOptions

    del debug  # read by handle_errors
    request = EvalRequest(
        folder,
        ModelOptions(model, labels, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        decoding=decode,
        resizer=resizer,
        batch_size=batch_size,
        workers=workers,
        format=format,
        output=output,
        report=report,
        overwrite=overwrite,
        calibrate=calibrate,
        fail_under=fail_under,
        target_accuracy=target_accuracy,
        store_threshold=store_threshold,
        columns=ImageColumns(image_column, key_column),
        color=not no_color,
        quiet=quiet,
        verbose=verbose,
    )
    return run(request, log)
