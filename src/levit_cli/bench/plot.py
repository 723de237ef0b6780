"""The paper's figure with this machine's points: accuracy, as published, against images per second, as measured.

matplotlib's ``Figure`` alone, never its ``pyplot``, which keeps a state of its own.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from levit_cli.bench.paper import PUBLISHED
from levit_cli.bench.results import Row, Verdict, verdicts, where
from levit_cli.system.plotting import BLUE, INK, MUTED, ORANGE, RULE, STYLE

SIZE_INCHES = (8.4, 5.2)
DOTS_PER_INCH = 150
GREEN = "#2f7d4f"
SHOWN_CLAIMS = 2  # the first two, which the paper's text names
TICKS = (1, 2, 5)
SETTINGS: Any = {**STYLE, "svg.hashsalt": "levit"}  # so that the same figures give the same file


class Family(NamedTuple):
    """Nets that belong on one line. Names stand above and right of their points, or below and left."""

    name: str
    prefix: str
    colour: str
    marker: str
    label_above: bool


HALO = [withStroke(linewidth=3, foreground="white")]  # around names, where lines cross them

FAMILIES = (
    Family("LeViT", "levit-", BLUE, "o", label_above=True),
    Family("EfficientNet", "efficientnet_", ORANGE, "s", label_above=False),
    Family("DeiT, distilled", "deit_", GREEN, "^", label_above=True),
)


def draw(rows: Sequence[Row], meta: Mapping[str, Any], format: str) -> bytes:
    """The figure as an image.

    Args:
        rows: those that the paper gives no accuracy for are left out; one must remain.
        format: ``png`` or ``svg``.
    """
    with rc_context(SETTINGS):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for family in FAMILIES:
            _line(axes, family, rows)
        for verdict in verdicts(rows)[:SHOWN_CLAIMS]:
            _claim(axes, verdict, rows)
        _frame(axes, rows, meta)
        image = io.BytesIO()
        figure.savefig(image, format=format, dpi=DOTS_PER_INCH, facecolor="white", metadata=_metadata(format))
    return image.getvalue()


def _line(axes: Axes, family: Family, rows: Sequence[Row]) -> None:
    found = sorted((row for row in rows if (row.published or "").startswith(family.prefix)), key=_place)
    if not found:
        return
    speeds, accuracies = zip(*map(_place, found), strict=True)
    axes.plot(speeds, accuracies, marker=family.marker, color=family.colour, linewidth=1.6, label=family.name)
    for row in found:
        axes.annotate(
            short_name(row.published or ""),
            _place(row),
            xytext=(5, 6) if family.label_above else (-5, -6),
            textcoords="offset points",
            ha="left" if family.label_above else "right",
            va="bottom" if family.label_above else "top",
            color=family.colour,
            path_effects=HALO,
        )


def _claim(axes: Axes, verdict: Verdict, rows: Sequence[Row]) -> None:
    """An arrow from the slow net to the fast one, with both ratios."""
    places = {row.published: _place(row) for row in rows if row.published}
    slow, fast = places[verdict.claim.slow], places[verdict.claim.fast]
    axes.annotate("", fast, slow, arrowprops={"arrowstyle": "->", "color": MUTED, "linestyle": ":", "shrinkB": 6})
    axes.annotate(
        f"{verdict.measured_ratio:.1f}x here, {verdict.paper_ratio:.1f}x in the paper",
        ((slow[0] * fast[0]) ** 0.5, (slow[1] + fast[1]) / 2),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=MUTED,
        size=8.5,
        path_effects=HALO,
    )


def _frame(axes: Axes, rows: Sequence[Row], meta: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("images per second, measured here (farther right is faster)")
    axes.set_ylabel("ImageNet top-1 %, as published")
    axes.set_title("Accuracy against speed on this machine", loc="left", color=INK, weight="bold", pad=22)
    axes.text(0, 1.02, where(meta, rows), transform=axes.transAxes, color=MUTED, va="bottom", parse_math=False)
    axes.legend(loc="lower left", frameon=False)


def _place(row: Row) -> tuple[float, float]:
    return row.images_per_s, PUBLISHED[row.published or ""].top1


def short_name(published: str) -> str:
    """A net's name as it fits beside a point: 128S, B2, Tiny."""
    family, _, size = published.replace("_", "-").partition("-")
    return {"levit": size, "efficientnet": size.upper(), "deit": size.capitalize()}[family]


def _metadata(format: str) -> dict[str, str | None]:
    """Without the date, for the same reason."""
    return {"Date": None} if format == "svg" else {}
