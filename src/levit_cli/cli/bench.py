"""``levit bench``: measure speed on this machine and compare it with the paper's claims."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.cli.options import ENGINE, OUTPUT
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

MODELS, MEASUREMENT = "Models", "Measurement"


@handle_errors
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="LeViTs to measure. The default is all five variants. A variant gets random weights; any other MODEL "
            "is loaded as for predict.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Baselines to measure, separated by commas: {', '.join(choices.BASELINES)}.",
            show_default="the networks in the paper's claims",
            rich_help_panel=MODELS,
        ),
    ] = None,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Measure LeViTs only.", rich_help_panel=MODELS)
    ] = False,
    sha256: Annotated[
        str | None,
        typer.Option(
            "--sha256",
            metavar="HEX",
            help="Expected SHA-256 hash of the weight file, if the model is a URL.",
            show_default=False,
            rich_help_panel=MODELS,
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    threads: options.ThreadsOption = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            metavar="N",
            help="Number of images per batch.",
            show_default="16, or 256 on a GPU",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    protocol: Annotated[
        choices.BenchProtocol,
        typer.Option(
            help="Measurement protocol. paper follows the authors' script: torch, 1 thread, fp32, and per model 10 s "
            "of warm-up and 60 s of timing.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = "quick",
    warmup: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Warm-up time per model.",
            show_default="0.3, or 10 with --protocol paper",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Timed duration per model.",
            show_default="2.5, or 60 with --protocol paper",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    end_to_end: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also time levit predict from file to record, in total and per stage, on up to 256 images of a folder "
            "or an archive.",
            show_default=False,
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    format: Annotated[
        choices.BenchFormat | None,
        typer.Option(
            "--format",
            "-f",
            help="Output format.",
            show_default="from the suffix of -o, else table",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: options.OutputOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|svg",
            help="Draw accuracy against speed, as in the paper, with this machine's speeds.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the speeds with those of an earlier run. FILE is its JSON output.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    fail_below: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit with code 1 if a model's speed divided by its earlier speed is below this ratio.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: options.OverwriteOption = False,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    no_color: options.NoColorOption = False,
) -> ExitCode:
    """Measure speed on this machine and compare it with the paper's claims.

    Examples:
        levit bench
        levit bench --device cpu --protocol paper
        levit bench levit-128S levit-256 --engine openvino --threads 2 --batch-size 32
        levit bench --against efficientnet_b2,resnet50 --plot speed.svg
        levit bench --end-to-end photos/
        levit bench -f json > before.json; levit bench --compare before.json
    """
    from levit_cli.bench.models import Selection
    from levit_cli.bench.protocol import make_protocol
    from levit_cli.bench.run import Outputs
    from levit_cli.bench.run import bench as run_bench
    from levit_cli.engines import EngineSpec

    del debug  # read by handle_errors
    return run_bench(
        Selection(tuple(models or ()), against, no_baselines, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        batch_size,
        make_protocol(protocol, warmup_s=warmup, duration_s=duration),
        Outputs(output, format, plot, overwrite, not no_color),
        folder=end_to_end,
        compare_with=compare,
        fail_below=fail_below,
        quiet=quiet,
        verbose=verbose,
        log=log,
    )
