"""Draw the paper's figure for this machine: published accuracy against measured images per second."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from levit_cli.bench.paper import OTHER_TOP1, PUBLISHED
from levit_cli.bench.results import Row, Verdict, describe_machine, verdicts
from levit_cli.system.plotting import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    RULE,
    Axes,
    Figure,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    chart_style,
    encode,
    withStroke,
)

SIZE_INCHES = (8.4, 5.2)
DOTS_PER_INCH = 150
GREEN = "#2f7d4f"
SHOWN_CLAIMS = 2  # the paper's text names the first two
TICKS = (1, 2, 5)


class Family(NamedTuple):
    """A family of models, whose points are joined by one line.

    Args:
        label_above: whether names are above and to the right of their points; otherwise below and to the left.
    """

    name: str
    prefix: str
    color: str
    marker: str
    label_above: bool


HALO = [withStroke(linewidth=3, foreground="white")]  # keeps names readable where a line crosses them

FAMILIES = (
    Family("LeViT", "levit-", BLUE, "o", label_above=True),
    Family("EfficientNet", "efficientnet_", ORANGE, "s", label_above=False),
    Family("DeiT, distilled", "deit_", GREEN, "^", label_above=True),
    Family("ResNet, torchvision", "resnet", MUTED, "D", label_above=False),
)


def draw(rows: Sequence[Row], meta: Mapping[str, Any], format: str) -> bytes:
    """Draw the figure and return it as a PNG or SVG file.

    Args:
        rows: rows without a published accuracy are left out; at least one row must have one.
        format: ``png`` or ``svg``.
    """
    with chart_style("levit"):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for family in FAMILIES:
            _draw_family(axes, family, rows)
        for verdict in verdicts(rows)[:SHOWN_CLAIMS]:
            _draw_claim(axes, verdict, rows)
        _format_axes(axes, rows, meta)
        return encode(figure, format, dpi=DOTS_PER_INCH, facecolor="white")


def _draw_family(axes: Axes, family: Family, rows: Sequence[Row]) -> None:
    members = sorted((row for row in rows if _name(row).startswith(family.prefix)), key=_point)
    if not members:
        return
    speeds, accuracies = zip(*map(_point, members), strict=True)
    axes.plot(speeds, accuracies, marker=family.marker, color=family.color, linewidth=1.6, label=family.name)
    for row in members:
        axes.annotate(
            short_name(_name(row)),
            _point(row),
            xytext=(5, 6) if family.label_above else (-5, -6),
            textcoords="offset points",
            ha="left" if family.label_above else "right",
            va="bottom" if family.label_above else "top",
            color=family.color,
            path_effects=HALO,
        )


def _draw_claim(axes: Axes, verdict: Verdict, rows: Sequence[Row]) -> None:
    """Draw an arrow from the slow model to the fast one, labeled with both ratios."""
    points = {row.published: _point(row) for row in rows if row.published}
    slow, fast = points[verdict.claim.slow], points[verdict.claim.fast]
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


def _format_axes(axes: Axes, rows: Sequence[Row], meta: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("images per second on this machine (log scale)")
    axes.set_ylabel("ImageNet-1k top-1 accuracy, published (%)")
    axes.set_title("Accuracy and speed on this machine", loc="left", color=INK, weight="bold", pad=22)
    machine = describe_machine(meta, rows)
    axes.text(0, 1.02, machine, transform=axes.transAxes, color=MUTED, va="bottom", parse_math=False)
    axes.legend(loc="lower left", frameon=False)


def _point(row: Row) -> tuple[float, float]:
    name = _name(row)
    return row.images_per_s, PUBLISHED[name].top1 if name in PUBLISHED else OTHER_TOP1[name]


def _name(row: Row) -> str:
    """Return the name under which a model's accuracy was published; empty if it was not."""
    return row.published or (row.name if row.name in OTHER_TOP1 else "")


def short_name(published: str) -> str:
    """Return the short name of a model for its point in the figure: 128S, B2, Tiny, 50."""
    family, _, size = published.replace("_", "-").replace("resnet", "resnet-").partition("-")
    return {"levit": size, "efficientnet": size.upper(), "deit": size.capitalize(), "resnet": size}[family]
