"""Write the human-readable table: one block per image, as soon as the image is classified."""

import io

from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from levit_cli.data.labels import Labels
from levit_cli.predict.pipeline import Prediction
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.output import Target, is_terminal
from levit_cli.system.text import count_noun, printable

BAR_CELLS = 20


class Table:
    """Writes Rich tables. File names and labels are never interpreted as markup; control characters are escaped."""

    def __init__(self, target: Target, labels: Labels, description: RunDescription, *, color: bool) -> None:
        self._target, self._labels, self._description = target, labels, description
        self._text = io.StringIO()
        self._console = Console(
            file=self._text, force_terminal=is_terminal(), no_color=not color or None,
            highlight=False, emoji=False, markup=False,
        )  # fmt: skip

    def write(self, prediction: Prediction) -> None:
        self._print(Text.assemble((printable(prediction.path), "bold"), self._mark(prediction)))
        if prediction.error is not None:
            self._print(Text(f"  {prediction.error.kind}: {printable(prediction.error.message)}", "red"))
        else:
            self._print(self._ranking(prediction))

    def _mark(self, prediction: Prediction) -> tuple[str, str]:
        """Return what follows the path of a prediction that is not accepted, and its style."""
        is_rejected = prediction.accepted is False
        return (f"  not accepted (below {self._description.min_prob:g})", "yellow") if is_rejected else ("", "")

    def finish(self) -> None:
        self._print(Text(caption(self._description), style="dim"))

    def _print(self, renderable: RenderableType) -> None:
        self._console.print(renderable)
        self._target.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()

    def _ranking(self, prediction: Prediction) -> RichTable:
        table = RichTable(box=None, show_header=False, padding=(0, 1))
        table.add_column(justify="right", style="dim")
        table.add_column(overflow="fold")
        table.add_column(justify="right")
        table.add_column(style="cyan", no_wrap=True, overflow="crop")
        for rank, (index, prob) in enumerate(prediction.top, start=1):
            label = Text(printable(self._labels.names[index]))
            table.add_row(str(rank), label, f"{100 * prob:.1f} %", "━" * round(BAR_CELLS * prob))
        return table


def caption(description: RunDescription) -> str:
    """Return a line that describes the model, with the measured accuracy that its files report, if any."""
    model, (height, width) = description.model, description.transform.crop_size
    classes = count_noun(model.classes, "class")
    text = f"model {printable(model.name)}: {model.architecture}, {classes}, {height} x {width} px"
    if model.evaluation is not None:
        measured, images = model.evaluation, count_noun(model.evaluation.images, "image")
        text += f"; top-1 {100 * measured.top1:.1f} % on {images} ({printable(measured.dataset)})"
    if description.min_prob is not None:
        text += f"; accepted if the first class has a probability of at least {description.min_prob:g}"
    return text
