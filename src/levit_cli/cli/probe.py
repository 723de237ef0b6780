"""``levit probe``: your own classes in a minute, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

RUN, IMAGES = "Run", "Images"


@handle_errors
def probe(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder with one folder of images per class, or with train/ and val/ folders of this layout. "
            "Or a .tar or .zip archive of such a folder, or a .csv file with the columns path and label.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            rich_help_panel=RUN,
            help="New run folder. Pass it as MODEL to other commands.",
        ),
    ],
    class_weights: Annotated[
        choices.ClassWeights,
        typer.Option(
            rich_help_panel=RUN,
            help="Weights of the classes: none counts each image the same, balanced each class.",
        ),
    ] = "none",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default=False,
            rich_help_panel=RUN,
            help="Keep the features in this folder or .npz file. The next run computes those of new images only.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=RUN, help="Random seed of the validation images and the folds."),
    ] = 0,
    val_split: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            show_default=False,
            rich_help_panel=IMAGES,
            help="Fraction of each class to measure the accuracy on if there is no val/ folder. [default: 0.1]",
        ),
    ] = None,
    max_unreadable: Annotated[
        str | None,
        typer.Option(
            metavar="FRACTION|N%",
            show_default=False,
            rich_help_panel=IMAGES,
            help="Largest accepted fraction of unreadable images. They are skipped and listed in unreadable.tsv. "
            "[default: 1%]",
        ),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    sha256: options.Sha256Option = None,
    preprocessing: options.PreprocessingOption = None,
    decode: options.DecodeOption = "exact",
    resizer: options.ResizerOption = "auto",
    workers: options.WorkersOption = 0,
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 16,
    threads: options.ThreadsOption = 0,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Teach a model your own classes in a minute, by logistic regression on its features and without torch.

    Examples:
        levit probe flowers/ -o runs/flowers -m levit-256
        levit probe flowers/ -o runs/flowers --cache features/ --class-weights balanced
        levit probe labels.csv -o runs/flowers -m levit-128S
    """
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.probe import ProbeRequest, start
    from levit_cli.system.output import Sink, silence_native_stderr

    if not debug:
        silence_native_stderr()  # of libtiff and OpenVINO
    source = ModelOptions(model, None, preprocessing, sha256, offline)
    spec = EngineSpec("cpu", "openvino", precision, threads, batch_size=batch_size)
    request = ProbeRequest(
        folder, output, source, spec, class_weights, val_split, max_unreadable, seed, cache, decode, resizer, workers,
        quiet, verbose,
    )  # fmt: skip
    report = start(request, log)
    with Sink(None) as sink:
        sink.write(report.encode())
    return ExitCode.OK
