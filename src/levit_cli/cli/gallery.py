"""``levit gallery``: show results as a page."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def gallery(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Output of levit predict: jsonl, json, csv, tsv or parquet.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", rich_help_panel=options.OUTPUT, help="HTML page to write."),
    ],
    overwrite: options.OverwriteOption = False,
    max_images: Annotated[
        int,
        typer.Option(
            min=1,
            max=50_000,
            metavar="N",
            rich_help_panel=options.OUTPUT,
            help="Maximum number of images on the page: the first ones of the results.",
        ),
    ] = 5000,
    thumbnail_size: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=1024,
            metavar="PIXELS",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Maximum width and height of the images on the page. The default is 320, or 224 for more than 2,000 "
            "images.",
        ),
    ] = None,
    image_column: options.ImageColumnOption = None,
    download: Annotated[
        bool,
        typer.Option("--download", rich_help_panel=options.INPUT, help="Download images whose path is a URL again."),
    ] = False,
    workers: options.WorkersOption = 0,
    timeout: options.TimeoutOption = 30.0,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Show the results of levit predict as one HTML page: images by label, with filters.

    Examples:
        levit gallery results.jsonl -o page.html
        levit gallery results.csv -o page.html --max-images 20000
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.gallery.run import GalleryOptions, make_gallery
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    return make_gallery(
        results,
        output,
        GalleryOptions(max_images, thumbnail_size, ImageColumns(image_column), download, overwrite, quiet),
        DecodeOptions(timeout_s=timeout, isolate=True, workers=workers),
        log,
    )
