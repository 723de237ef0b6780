"""``levit quantize``: make an int8 model that is proved on the user's images."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

CALIBRATION = "Calibration and comparison"


@handle_errors
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.MODEL_HELP)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=CALIBRATION,
            help="Images for calibration and comparison: a folder with one subfolder per class, or of images only. At "
            "least 100.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", rich_help_panel=options.OUTPUT, help="New model folder."),
    ],
    samples: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            metavar="N",
            rich_help_panel=CALIBRATION,
            help="Number of images for calibration, at most half of the images. The model is compared on the others.",
        ),
    ] = 300,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0,
            max=100,
            metavar="POINTS",
            rich_help_panel=CALIBRATION,
            help="Refuse the model if top-1 drops by more percentage points. Needs class folders.",
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=CALIBRATION, help="Random seed of the choice of images."),
    ] = 0,
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    preprocessing: options.PreprocessingOption = None,
    workers: options.WorkersOption = 0,
    threads: options.ThreadsOption = 0,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Make an int8 model, and refuse it unless it stays accurate on your images.

    Examples:
        levit quantize runs/flowers --data flowers/train -o runs/flowers-int8
        levit quantize runs/flowers --data flowers/train -o runs/flowers-int8 --max-drop 0.5
        levit quantize levit-256 --data photos/ -o levit-256-int8
        levit predict -m runs/flowers-int8 new/
    """
    from levit_cli.predict.model import ModelOptions
    from levit_cli.quantize.run import Calibration
    from levit_cli.quantize.run import quantize as run
    from levit_cli.system.output import Sink

    del debug  # read by handle_errors
    report = run(
        ModelOptions(model, labels, preprocessing, sha256, offline),
        output,
        Calibration(data, samples, seed, max_drop),
        log,
        workers=workers,
        threads=threads,
        quiet=quiet,
        verbose=verbose,
    )
    with Sink(None) as sink:
        sink.write(report.encode())
    return ExitCode.OK
