"""``levit similar``: find the most similar images of an index."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

IndexOption = Annotated[
    Path,
    typer.Option(
        "--index", metavar="FILE", show_default=False, rich_help_panel=options.INPUT,
        help="Vectors of the images to search, written by levit embed: npz, parquet or jsonl.",
    ),
]  # fmt: skip


@handle_errors
def similar(
    index: IndexOption,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY...",
            help="Files, folders, archives, Parquet, globs, URLs of any kind, or - for an image on stdin.",
        ),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    sha256: options.Sha256Option = None,
    files_from: options.FilesFromOption = None,
    null: options.NullOption = False,
    follow_links: options.FollowLinksOption = False,
    image_column: options.ImageColumnOption = None,
    key_column: options.KeyColumnOption = None,
    count: Annotated[
        int,
        typer.Option(
            "--count", "-k", min=1, metavar="N", rich_help_panel=options.OUTPUT, help="Number of images per query."
        ),
    ] = 10,
    format: Annotated[
        choices.TableFormat | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            rich_help_panel=options.OUTPUT,
            help="Output format: table, jsonl or csv. The default follows the suffix of -o. Without -o it is table on "
            "a terminal, else jsonl.",
            show_default=False,
        ),
    ] = None,
    output: options.OutputOption = None,
    overwrite: options.OverwriteOption = False,
    preprocessing: options.PreprocessingOption = None,
    decode: options.DecodeOption = "exact",
    resizer: options.ResizerOption = "auto",
    workers: options.WorkersOption = 0,
    isolate: options.IsolateOption = False,
    timeout: options.TimeoutOption = 30.0,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 16,
    threads: options.ThreadsOption = 0,
    stats: options.StatsOption = False,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Find the images of an index that are most similar to others.

    Examples:
        levit embed photos/ -o photos.npz
        levit similar query.jpg --index photos.npz -k 10
        levit similar new/ --index photos.npz -o similar.csv
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.data.inputs import InputOptions
    from levit_cli.embed.similar import find_similar
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.predict.run import DisplayOptions, OutputOptions
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    return find_similar(
        InputOptions(
            tuple(inputs or ()), files_from, null, follow_links, ImageColumns(image_column, key_column), offline
        ),
        index,
        ModelOptions(model, None, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, resizer, timeout, isolate, workers),
        OutputOptions(None, output, overwrite),
        format,
        DisplayOptions(stats=stats, quiet=quiet, verbose=verbose),
        log,
        batch_size=batch_size,
        count=count,
    )
