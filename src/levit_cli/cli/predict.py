"""``levit predict``: labels for images."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import Result, handle_errors
from levit_cli.system.progress import log


@handle_errors
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files, folders, globs, addresses, or - for an image on stdin."),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes per image.")] = 5,
    format: Annotated[
        choices.Format | None,
        typer.Option(
            "--format", "-f", help="Default: the suffix of -o, table on a terminal, else tsv.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of stdout.", show_default=False)
    ] = None,
    overwrite: options.OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the output of an interrupted run; try what failed again.")
    ] = False,
    files_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read paths from a file, or - for stdin, one a line.", show_default=False),
    ] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths in --files-from end in NUL.")] = False,
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
    isolate: Annotated[bool, typer.Option("--isolate", help="Decode in processes that may crash or hang.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="For decoding one image.")] = 30.0,
    sha256: options.Sha256Option = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr where the time went.")] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    offline: options.OfflineOption = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours in the table.")] = False,
) -> Result:
    """Classify images.

    levit predict photo.jpg

    levit predict photos/ -o results.jsonl

    levit predict photos/ -o results.jsonl --resume

    levit predict photos/ --format csv --top-k 1 > labels.csv

    fd -e jpg -0 | levit predict --files-from - -0 --format jsonl

    curl -s URL | levit predict -
    """
    from levit_cli.data.inputs import InputOptions
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.predict.run import DisplayOptions, OutputOptions, classify
    from levit_cli.system.output import silence_native_stderr

    if not debug:
        silence_native_stderr()
    return classify(
        InputOptions(tuple(inputs or ()), files_from, null),
        ModelOptions(model, labels, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, timeout, isolate, workers),
        OutputOptions(format, output, overwrite, resume),
        DisplayOptions(color=not no_color, stats=stats, quiet=quiet, verbose=verbose),
        log,
        batch_size=batch_size,
        top_k=top_k,
    )
