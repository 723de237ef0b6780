"""``levit bench``: speed on this machine, beside the paper's."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import Result, handle_errors
from levit_cli.system.progress import log

NETS, HOW, RESULT = "Nets", "How it is measured", "What becomes of it"


@handle_errors
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="LeViTs; without any, the five variants. A variant gets random weights; any other MODEL is loaded.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Baselines, with commas between: {', '.join(choices.BASELINES)}.",
            show_default="those of the claims",
            rich_help_panel=NETS,
        ),
    ] = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="LeViTs only.", rich_help_panel=NETS)] = False,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    threads: options.ThreadsOption = 0,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", min=1, help="Images at once.", show_default="16, on a GPU 256"),
    ] = None,
    protocol: Annotated[
        choices.BenchProtocol,
        typer.Option(
            help="paper: torch as the authors' script, one thread, fp32, 10 s of warm-up, 60 s timed.",
            rich_help_panel=HOW,
        ),
    ] = "quick",
    warmup: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds, each net.", show_default="0.3", rich_help_panel=HOW),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds timed, each net.", show_default="2.5", rich_help_panel=HOW),
    ] = None,
    end_to_end: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="From file to record over up to 256 images, too, and where the time goes.",
            show_default=False,
            rich_help_panel=HOW,
        ),
    ] = None,
    format: Annotated[
        choices.BenchFormat | None,
        typer.Option(
            "--format", "-f", help="Default: the suffix of -o, else table.", show_default=False, rich_help_panel=RESULT
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Instead of stdout.", show_default=False, rich_help_panel=RESULT
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|svg",
            help="The paper's figure, accuracy against speed, with this machine's points.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An earlier run's JSON: how many times faster each net is now.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ] = None,
    fail_below: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit 1 if a net is slower than so many times before.",
            show_default=False,
            rich_help_panel=RESULT,
        ),
    ] = None,
    overwrite: options.OverwriteOption = False,
    sha256: options.Sha256Option = None,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours in the table.")] = False,
) -> Result:
    """Measure speed on this machine, beside the paper's claims.

    Examples:
        levit bench
        levit bench --device cpu --protocol paper
        levit bench levit-128S levit-256 --engine openvino --threads 2 --batch-size 32
        levit bench --against efficientnet_b2,resnet50 --plot speed.svg
        levit bench --end-to-end photos/
        levit bench -f json > before.json; levit bench --compare before.json
    """
    from levit_cli.bench.request import Request
    from levit_cli.bench.run import bench as measure
    from levit_cli.engines import EngineSpec

    request = Request(
        models=tuple(models or ()),
        against=against,
        no_baselines=no_baselines,
        spec=EngineSpec(device, engine, precision, threads),
        batch_size=batch_size,
        protocol=protocol,
        warmup_s=warmup,
        duration_s=duration,
        end_to_end=end_to_end,
        plot=plot,
        compare=compare,
        fail_below=fail_below,
        format=format,
        output=output,
        overwrite=overwrite,
        sha256=sha256,
        offline=offline,
        color=not no_color,
        quiet=quiet,
        verbose=verbose,
    )
    del debug  # the door looks at it
    return measure(request, log)
