"""The measurement for people: what was measured beside what was published, the claims, and what to make of it."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from levit_cli.bench.compare import Compared
from levit_cli.bench.end_to_end import Passage
from levit_cli.bench.paper import HARDWARE, PUBLISHED, SOURCE
from levit_cli.bench.protocol import UNSTABLE_CV
from levit_cli.bench.results import Row, Verdict, verdicts, where
from levit_cli.system.output import is_terminal
from levit_cli.system.text import printable

WIDEST_NAME = 15  # characters; a longer one is folded where there is no room
VERDICT_STYLES = {"holds": "green", "less": "yellow", "not faster": "red"}


class Page:
    """Text and tables as bytes. Nothing from outside is read as markup."""

    def __init__(self, *, color: bool) -> None:
        self._text = io.StringIO()
        self._console = Console(
            file=self._text, force_terminal=is_terminal() and color, no_color=not color or None,
            highlight=False, emoji=False, markup=False,
        )  # fmt: skip

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def note(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(text, style=style))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Words to the left, numbers to the right: a head that begins with a blank is of words."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, head in enumerate(heads):
            justify: JustifyMethod = "left" if head.startswith(" ") else "right"
            table.add_column(head.strip(), justify=justify, vertical="bottom", overflow="fold", no_wrap=number > 0)
        table.columns[0].min_width = min(max(len(cells[0]) for cells in rows), WIDEST_NAME)
        for cells, style in zip(rows, styles or [""] * len(rows), strict=True):
            table.add_row(*map(Text, cells), style=style)
        self._console.print(table)

    def gap(self) -> None:
        self._console.print()

    def done(self) -> bytes:
        return self._text.getvalue().encode("utf-8", "backslashreplace")


def as_table(
    meta: Mapping[str, Any],
    rows: Sequence[Row],
    compared: Sequence[Compared] | None,
    passages: Sequence[Passage],
    *,
    color: bool,
) -> bytes:
    """Everything that was found, on one page.

    Args:
        compared: with an earlier run; None where there is none.
        passages: of a folder of images; may be empty.
    """
    page = Page(color=color)
    _speeds(page, meta, rows)
    if found := verdicts(rows):
        page.gap()
        _claims(page, meta, rows[0].hardware, found)
    if compared is not None:
        page.gap()
        _comparison(page, compared)
    if passages:
        page.gap()
        _folder(page, passages)
    return page.done()


def _speeds(page: Page, meta: Mapping[str, Any], rows: Sequence[Row]) -> None:
    page.title(f"Speed on this machine: {where(meta, rows)}")
    batches = {row.contestant.batch_size for row in rows}
    size = f"batches of {batches.pop()}, whose ms are given" if len(batches) == 1 else "each net with the paper's batch"
    page.note(
        f"{meta['protocol']} protocol: {size}; {meta['duration_s']:g} s of each net, "
        f"taking turns in {meta['rounds']} rounds; {_origin(rows)}"
    )
    page.gap()
    unstable = [row.timing.is_unstable for row in rows]
    page.table(
        (
            *(" model", "images/s\nhere", f"{rows[0].average}\nms", "p90\nms", "spread"),
            *("images/s\npaper", "top-1 %\npaper", " "),
        ),
        [_cells(row) for row in rows],
        ["yellow" if shaky else "" for shaky in unstable],
    )
    page.gap()
    page.note(
        f"paper: {SOURCE}, on {HARDWARE[rows[0].hardware]}. "
        "Absolute speeds of another machine do not compare; ratios do."
    )
    if any(unstable):
        page.note(
            f"unstable: a step's time varies by more than {UNSTABLE_CV:.0%} (spread: standard deviation by mean). "
            "Close what else is running, or measure longer with --duration.",
            "yellow",
        )


def _origin(rows: Sequence[Row]) -> str:
    named = [row.name for row in rows if row.contestant.net.is_trained]
    return f"random weights but for {', '.join(map(printable, named))}" if named else "random weights"


def _cells(row: Row) -> tuple[str, ...]:
    timing, published = row.timing, row.published_images_per_s
    return (
        printable(row.name),
        number(row.images_per_s),
        number(1000 * timing.average_s(row.average)),
        number(1000 * timing.p90_s),
        f"{timing.cv:.0%}",
        number(published) if published else "–",
        f"{PUBLISHED[row.published].top1:.1f}" if row.published else "–",
        "unstable" if timing.is_unstable else "",
    )


def number(value: float) -> str:
    """One decimal, where that tells something."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _claims(page: Page, meta: Mapping[str, Any], hardware: str, found: Sequence[Verdict]) -> None:
    page.title("The paper's claims: how many times faster, at about the same accuracy")
    page.gap()
    page.table(
        (" LeViT", " than", "paper", "here", "lowest–highest\nof the rounds", " verdict"),
        [_claim_cells(verdict) for verdict in found],
        [VERDICT_STYLES[verdict_word(verdict)] for verdict in found],
    )
    page.gap()
    page.note(
        f"Held against {HARDWARE[hardware]}. A claim holds if LeViT is at least as many times faster here; "
        "less: faster, but by less; unsure: not every round says so. "
        "Both nets run in the same engine, precision and threads."
    )
    if meta["protocol"] != "paper":
        page.note("The paper measured in torch, traced: --protocol paper measures as it did.")


def _claim_cells(verdict: Verdict) -> tuple[str, ...]:
    return (
        *verdict.claim,
        f"{verdict.paper_ratio:.2f}x",
        f"{verdict.measured_ratio:.2f}x",
        f"{verdict.lowest:.2f}–{verdict.highest:.2f}",
        verdict_word(verdict) + ("" if verdict.is_sure else ", unsure"),
    )


def verdict_word(verdict: Verdict) -> str:
    """What became of a claim here, in a word or two."""
    if verdict.holds:
        return "holds"
    return "less" if verdict.measured_ratio > 1 else "not faster"


def _comparison(page: Page, compared: Sequence[Compared]) -> None:
    page.title("Beside the earlier run (above 1: faster now)")
    page.gap()
    if not compared:
        page.note("No net was measured in both with the same engine, precision, batch and threads.")
        return
    page.table(
        (" model", "images/s\nbefore", "images/s\nnow", "ratio"),
        [(printable(each.key.model), number(each.before), number(each.now), f"{each.ratio:.2f}x") for each in compared],
    )


def _folder(page: Page, passages: Sequence[Passage]) -> None:
    first = passages[0]
    page.title(f"From file to record: {first.images:,} images of {printable(str(first.folder))}")
    page.note(
        f"as predict does it: {first.workers} threads decode, {first.spec.streams} run the network, "
        f"batches of {first.batch_size}"
    )
    page.gap()
    page.table(
        (
            *(" model", "images/s", "decode\nms", "resize\nms"),
            *("network\nms", "output\nms", "spread", " most of it"),
        ),
        [
            (
                printable(each.model),
                number(each.images_per_s),
                *(f"{1000 * seconds:.2f}" for seconds in each.parts_s.values()),
                f"{each.timing.cv:.0%}",
                _most(each),
            )
            for each in passages
        ],
    )
    page.gap()
    page.note(
        "ms: of one thread, for one image; decode includes reading the file, output is the record as jsonl. "
        "Threads work side by side, so the sum is more than an image takes."
    )
    if first.failed:
        page.note(f"{first.failed:,} of the files could not be read as images.", "yellow")


def _most(passage: Passage) -> str:
    part = max(passage.parts_s, key=lambda name: passage.parts_s[name])
    return f"{part} {passage.share(part):.0%}"
