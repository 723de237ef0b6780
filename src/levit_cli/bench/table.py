"""Format the results as a text table: measured and published speeds, verdicts on the claims, and explanations."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from levit_cli.bench.compare import Comparison
from levit_cli.bench.end_to_end import EndToEndRun
from levit_cli.bench.paper import HARDWARE, PUBLISHED, SOURCE
from levit_cli.bench.protocol import UNSTABLE_CV
from levit_cli.bench.results import Row, Verdict, describe_machine, verdicts
from levit_cli.system.output import is_terminal
from levit_cli.system.text import count_noun, printable

NAME_WIDTH = 15  # characters; a longer name is wrapped if the table is too wide
VERDICT_STYLES = {"holds": "green", "less": "yellow", "not faster": "red"}


class Page:
    """Collect titles, notes and tables, and return them as bytes. Names are never parsed as markup."""

    def __init__(self, *, color: bool) -> None:
        self._text = io.StringIO()
        self._console = Console(
            file=self._text, force_terminal=is_terminal() and color, no_color=not color or None,
            highlight=False, emoji=False, markup=False,
        )  # fmt: skip

    def add_title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def add_note(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(text, style=style))

    def add_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Add a table. Columns are right-aligned, except those whose header starts with a space.

        Args:
            styles: one for each row.
        """
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, header in enumerate(headers):
            justify: JustifyMethod = "left" if header.startswith(" ") else "right"
            table.add_column(header.strip(), justify=justify, vertical="bottom", overflow="fold", no_wrap=number > 0)
        table.columns[0].min_width = min(max(len(cells[0]) for cells in rows), NAME_WIDTH)
        for cells, style in zip(rows, styles or [""] * len(rows), strict=True):
            table.add_row(*map(Text, cells), style=style)
        self._console.print(table)

    def add_blank_line(self) -> None:
        self._console.print()

    def to_bytes(self) -> bytes:
        return self._text.getvalue().encode("utf-8", "backslashreplace")


def as_table(
    meta: Mapping[str, Any],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison] | None,
    end_to_end_runs: Sequence[EndToEndRun],
    *,
    color: bool,
) -> bytes:
    """Format all results as text.

    Args:
        comparisons: with an earlier run; None if there is no earlier run.
        end_to_end_runs: of a folder of images; may be empty.
    """
    page = Page(color=color)
    _add_speeds(page, meta, rows)
    if judged := verdicts(rows):
        page.add_blank_line()
        _add_claims(page, meta, rows[0].hardware, judged)
    if comparisons is not None:
        page.add_blank_line()
        _add_comparisons(page, comparisons)
    if end_to_end_runs:
        page.add_blank_line()
        _add_end_to_end(page, end_to_end_runs)
    return page.to_bytes()


def _add_speeds(page: Page, meta: Mapping[str, Any], rows: Sequence[Row]) -> None:
    page.add_title(f"Speed on this machine: {describe_machine(meta, rows)}")
    page.add_note(
        f"{meta['protocol']} protocol: {_batch_sizes(rows)}; {meta['duration_s']:g} s timed per model, "
        f"in {count_noun(meta['rounds'], 'interleaved round')}; {_weights(rows)}"
    )
    page.add_blank_line()
    unstable = [row.timing.is_unstable for row in rows]
    page.add_table(
        (
            *(" model", "images/s\nhere", f"{rows[0].average}\nms", "p90\nms", "spread"),
            *("images/s\npaper", "top-1 %\npaper", " "),
        ),
        [_cells(row) for row in rows],
        ["yellow" if is_unstable else "" for is_unstable in unstable],
    )
    page.add_blank_line()
    page.add_note(
        f"paper: {SOURCE}, on {HARDWARE[rows[0].hardware]}. Speeds of different machines cannot be compared; "
        "speed ratios can. ms: time of one batch."
    )
    if any(unstable):
        page.add_note(
            f"unstable: the spread (standard deviation / mean of the batch times) exceeds {100 * UNSTABLE_CV:.0f} %. "
            "Close other programs, or measure longer with --duration.",
            "yellow",
        )


def _batch_sizes(rows: Sequence[Row]) -> str:
    sizes = {row.runner.batch_size for row in rows}
    return f"batch size {sizes.pop()}" if len(sizes) == 1 else "the paper's batch size for each model"


def _weights(rows: Sequence[Row]) -> str:
    trained = [printable(row.name) for row in rows if row.runner.model.is_trained]
    return f"random weights, except {', '.join(trained)}" if trained else "random weights"


def _cells(row: Row) -> tuple[str, ...]:
    timing, published = row.timing, row.published_images_per_s
    is_int8 = row.runner.spec.precision == "int8"
    return (
        printable(row.name) + " (int8)" * is_int8,
        format_number(row.images_per_s),
        format_number(1000 * timing.average_s(row.average)),
        format_number(1000 * timing.p90_s),
        f"{100 * timing.cv:.0f} %",
        format_number(published) if published else "–",
        f"{PUBLISHED[row.published].top1:.1f}" if row.published else "–",
        "unstable" if timing.is_unstable else "",
    )


def format_number(value: float) -> str:
    """Format a number with one decimal, or with none if it is 1,000 or more."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _add_claims(page: Page, meta: Mapping[str, Any], hardware: str, judged: Sequence[Verdict]) -> None:
    page.add_title("The paper's claims: speed of a LeViT / speed of a baseline of similar accuracy")
    page.add_blank_line()
    page.add_table(
        (" LeViT", " baseline", "ratio\npaper", "ratio\nhere", "range over\nrounds", " verdict"),
        [_claim_cells(verdict) for verdict in judged],
        [VERDICT_STYLES[verdict_word(verdict)] for verdict in judged],
    )
    page.add_blank_line()
    page.add_note(
        f"The paper's ratios are from {HARDWARE[hardware]}. holds: the ratio here is at least the paper's. "
        "less: LeViT is faster, but the ratio is smaller. unsure: the verdict differs between rounds. "
        "Both models run with the same engine, precision and number of threads."
    )
    if meta["protocol"] != "paper":
        page.add_note("The paper measured traced torch models. Use --protocol paper to do the same.")


def _claim_cells(verdict: Verdict) -> tuple[str, ...]:
    return (
        *verdict.claim,
        f"{verdict.paper_ratio:.2f}x",
        f"{verdict.measured_ratio:.2f}x",
        f"{verdict.lowest:.2f}–{verdict.highest:.2f}",
        verdict_word(verdict) + ("" if verdict.rounds_agree else ", unsure"),
    )


def verdict_word(verdict: Verdict) -> str:
    """Return the verdict as a key of ``VERDICT_STYLES``."""
    if verdict.holds:
        return "holds"
    return "less" if verdict.measured_ratio > 1 else "not faster"


def _add_comparisons(page: Page, comparisons: Sequence[Comparison]) -> None:
    page.add_title("Compared with the earlier run (a ratio above 1 is faster now)")
    page.add_blank_line()
    if not comparisons:
        page.add_note("No model ran in both runs with the same engine, precision, batch size and number of threads.")
        return
    page.add_table(
        (" model", "images/s\nbefore", "images/s\nnow", "ratio"),
        [
            (printable(each.key.model), format_number(each.before), format_number(each.now), f"{each.ratio:.2f}x")
            for each in comparisons
        ],
    )


def _add_end_to_end(page: Page, runs: Sequence[EndToEndRun]) -> None:
    first = runs[0]
    page.add_title(
        f"End to end, from file to record: {count_noun(first.images, 'image')} in {printable(str(first.folder))}"
    )
    page.add_note(
        f"the pipeline of levit predict: {count_noun(first.workers, 'decoding thread')}, "
        f"{count_noun(first.spec.streams, 'network thread')}, batch size {first.batch_size}"
    )
    page.add_blank_line()
    page.add_table(
        (
            *(" model", "images/s", "decode\nms", "resize\nms"),
            *("network\nms", "output\nms", "spread", " slowest part"),
        ),
        [_end_to_end_cells(run) for run in runs],
    )
    page.add_blank_line()
    page.add_note(
        "ms: thread time per image. decode includes reading the file; output formats and writes the jsonl record. "
        "Threads run in parallel, so the parts add up to more than the time between two images."
    )
    if first.failed:
        page.add_note(f"{count_noun(first.failed, 'image')} could not be decoded.", "yellow")


def _end_to_end_cells(run: EndToEndRun) -> tuple[str, ...]:
    slowest = max(run.parts_s, key=lambda part: run.parts_s[part])
    return (
        printable(run.model) + " (int8)" * (run.spec.precision == "int8"),
        format_number(run.images_per_s),
        *(f"{1000 * seconds:.2f}" for seconds in run.parts_s.values()),
        f"{100 * run.timing.cv:.0f} %",
        f"{slowest} {100 * run.share(slowest):.0f} %",
    )
