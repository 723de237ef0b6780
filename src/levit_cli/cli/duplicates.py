"""``levit duplicates``: find equal images and changed copies."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode, UsageError
from levit_cli.system.progress import log


@handle_errors
def duplicates(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, archives, Parquet, globs, URLs of any kind, or - for an image on stdin.",
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.INPUT,
            help="Compare the vectors of an index from levit embed, without its images, instead of INPUT.",
        ),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    sha256: options.Sha256Option = None,
    files_from: options.FilesFromOption = None,
    null: options.NullOption = False,
    follow_links: options.FollowLinksOption = False,
    image_column: options.ImageColumnOption = None,
    key_column: options.KeyColumnOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Lowest cosine similarity of two images in a group. The default is 0.7, because the pixels of similar "
            "images are compared, too, and 0.97 with --index.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Write a page (HTML) that shows the groups with thumbnails.",
        ),
    ] = None,
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
    """Find duplicates: images with equal pixels, and copies that were resized, recompressed, cropped or brightened.

    Examples:
        levit duplicates photos/
        levit duplicates photos/ -o groups.jsonl --page groups.html
        levit duplicates photos/ more.zip --format csv > groups.csv
        levit duplicates --index photos.npz --threshold 0.98
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.data.inputs import InputOptions
    from levit_cli.embed.duplicates import DuplicateOptions, find_duplicates, group_index
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.predict.run import DisplayOptions, OutputOptions
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    output_options = OutputOptions(None, output, overwrite)
    duplicate_options = DuplicateOptions(threshold, format, page)
    display = DisplayOptions(stats=stats, quiet=quiet, verbose=verbose)
    if index is not None:
        if inputs or files_from is not None:
            raise UsageError("INPUT and --index cannot be used together", hint="name images or an index")
        return group_index(index, output_options, duplicate_options, display, log)
    return find_duplicates(
        InputOptions(
            tuple(inputs or ()), files_from, null, follow_links, ImageColumns(image_column, key_column), offline
        ),
        ModelOptions(model, None, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, resizer, timeout, isolate, workers),
        output_options,
        duplicate_options,
        display,
        log,
        batch_size=batch_size,
    )
