"""Run ``levit gallery``: read the results, make the thumbnails, and write the page."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from levit_cli.data.input import STDIN, ImageColumns
from levit_cli.data.inputs import DEFAULT_COLUMNS
from levit_cli.errors import ExitCode, InputError
from levit_cli.gallery.files import Changes, link_to, version_of_path
from levit_cli.gallery.selection import Selection, Shown, select
from levit_cli.gallery.sources import inputs_of
from levit_cli.gallery.thumbnails import Thumbnail, ThumbnailReader, make_thumbnails
from levit_cli.predict.prefetch import DecodeOptions
from levit_cli.predict.results import read_results
from levit_cli.system.extras import extra
from levit_cli.system.output import require_free, write_output
from levit_cli.system.progress import Log, progress, shows_progress, silent
from levit_cli.system.text import count_noun, printable

LARGE, SMALL = 320, 224  # sides of thumbnails in pixels
FEW = 2_000  # with more images the thumbnails are small, so that the page is not too large
RESULTS_CHANGED = "The results file was changed while this page was made. The page shows what it held before."


@dataclass(frozen=True)
class GalleryOptions:
    """What a page shows.

    Args:
        max_images: maximum number of images.
        thumbnail_size: maximum width and height of thumbnails in pixels; None to choose it by their number.
        columns: the columns of Parquet files that hold the images.
        download: whether URLs may be downloaded.
        overwrite: whether the page may replace a file.
        quiet: whether to report nothing.
    """

    max_images: int
    thumbnail_size: int | None = None
    columns: ImageColumns = DEFAULT_COLUMNS
    download: bool = False
    overwrite: bool = False
    quiet: bool = False

    def side_for(self, num_images: int) -> int:
        """Return the maximum width and height of each thumbnail."""
        return self.thumbnail_size or (LARGE if num_images <= FEW else SMALL)


def make_gallery(
    results: Path, output: Path, options: GalleryOptions, decode_options: DecodeOptions, log: Log
) -> ExitCode:
    """Write a page of the results. Return ``SOME_FAILED`` if the results or their images were changed or are gone.

    Raises:
        UsageError: the results cannot be read, the output exists or is an input, or the extra is missing.
        OutputError: the page cannot be written.
    """
    with extra("plot", "The gallery"):
        from levit_cli.gallery.page import Page
    log = silent if options.quiet else log
    start = time.perf_counter()
    require_free(output, [results], overwrite=options.overwrite)
    version = version_of_path(str(results))
    selection = select(read_results(results, log), options.max_images)
    paths = [result.path for result in selection.images]
    require_free(output, paths, overwrite=options.overwrite)
    thumbnails = _thumbnails(paths, options, decode_options)
    images, errors = _shown(selection, thumbnails, Changes(version), output.parent)
    failures = [*_failures(images), *[RESULTS_CHANGED] * (version_of_path(str(results)) != version)]
    notes = [*_left_out(selection), *failures]
    content = Page(printable(results.name), selection.summary, notes, images, errors).as_html()
    write_output(output, content)
    for note in notes:
        log(note)
    elapsed_s = time.perf_counter() - start
    log(f"{count_noun(len(images), 'image')} on {output}: {len(content) / 1e6:.1f} MB, made in {elapsed_s:.1f} s")
    return ExitCode.SOME_FAILED if failures else ExitCode.OK


def _thumbnails(paths: Sequence[str], options: GalleryOptions, decode_options: DecodeOptions) -> list[Thumbnail]:
    inputs = inputs_of(paths, options.columns, download=options.download)
    reader = ThumbnailReader(options.side_for(len(paths)), offline=not options.download)
    with progress(shown=shows_progress(quiet=options.quiet), total=len(paths)) as bar:
        return make_thumbnails(paths, inputs, reader, decode_options, bar)


def _shown(
    selection: Selection, thumbnails: Sequence[Thumbnail], changes: Changes, folder: Path
) -> tuple[list[Shown], list[Shown]]:
    """Return the images and the errors of a page in this folder."""
    images = [
        Shown(
            result,
            thumbnail,
            link_to(result.path, folder),
            is_changed=isinstance(thumbnail, bytes) and changes.include(result.path),
        )
        for result, thumbnail in zip(selection.images, thumbnails, strict=True)
    ]
    return images, [Shown(result, link=link_to(result.path, folder)) for result in selection.errors]


def _left_out(selection: Selection) -> Iterator[str]:
    """Yield sentences about results that are not on the page."""
    shown, listed = len(selection.images), len(selection.errors)
    if shown < selection.num_images:
        order = "in the order of the results. --max-images sets their number."
        yield f"The page shows the first {shown:,} of {count_noun(selection.num_images, 'image')}, {order}"
    if listed < selection.num_errors:
        yield f"The page lists the first {listed:,} of {count_noun(selection.num_errors, 'error')}."


def _is_relative_and_gone(shown: Shown) -> bool:
    is_gone = isinstance(shown.thumbnail, InputError) and shown.thumbnail.kind == "not_found"
    return is_gone and shown.result.path != STDIN and not Path(shown.result.path).is_absolute()


def _failures(images: Sequence[Shown]) -> Iterator[str]:
    """Yield sentences about images that cannot be shown or were changed."""
    kinds = Counter(shown.thumbnail.kind for shown in images if isinstance(shown.thumbnail, InputError))
    if kinds:
        reasons = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
        yield f"{count_noun(kinds.total(), 'image')} cannot be shown ({reasons}). Placeholders give the reasons."
        if any(_is_relative_and_gone(shown) for shown in images):
            yield "Relative paths are looked up from the current folder; levit predict may have run in another one."
    changed = sum(shown.is_changed for shown in images)
    if changed:
        was = "was" if changed == 1 else "were"
        yield (
            f"{count_noun(changed, 'image')} {was} changed after the results were written. "
            "The classes may be those of other images."
        )
