"""The ``levit`` command and the layout of its help.

To print help, only this package is imported. Each command imports its implementation when it runs.
"""

import inspect
import io
import re
import shutil
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from levit_cli import __version__
from levit_cli.cli.bench import bench
from levit_cli.cli.convert_checkpoint import convert_checkpoint
from levit_cli.cli.duplicates import duplicates
from levit_cli.cli.embed import embed
from levit_cli.cli.errors import exit_now
from levit_cli.cli.eval import evaluate
from levit_cli.cli.export import export
from levit_cli.cli.finetune import finetune
from levit_cli.cli.info import info
from levit_cli.cli.merge import merge
from levit_cli.cli.options import GENERAL
from levit_cli.cli.predict import predict
from levit_cli.cli.quantize import quantize
from levit_cli.cli.similar import similar
from levit_cli.cli.values import convert_quickly
from levit_cli.errors import IS_WINDOWS, ExitCode
from levit_cli.system.progress import log

if TYPE_CHECKING:
    _Base = TyperCommand
else:
    _Base = object
NARROW_COLUMNS = 60  # on narrower terminals, Typer's tables truncate option names


class _ExamplesFirst(_Base):
    """Lay out help: the docstring's sentence and examples first, then the usage and the options by panel.

    The docstring holds one sentence, a blank line, the heading "Examples:" and one indented command per line. Typer
    would wrap the commands at the terminal's width; here each stays on one line, so that it can be copied.
    """

    def __init__(self, *args: Any, help: str | None = None, **attributes: Any) -> None:  # noqa: A002
        sentence, _, self.examples = inspect.cleandoc(help or "").partition("\n\nExamples:\n")
        super().__init__(*args, **{**attributes, "help": None, "short_help": sentence})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for parameter in self.get_params(ctx):
            convert_quickly(parameter)
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        columns = shutil.get_terminal_size().columns
        formatter.width = min(formatter.width, columns)
        head = type(formatter)(width=formatter.width)
        head.write_text(self.short_help or "")
        if self.examples:  # python -OO removes docstrings
            with head.section("Examples"):
                head.write("".join(f"  {line.strip()}\n" for line in self.examples.splitlines()))
        typer.echo(head.getvalue().rstrip())
        if columns < NARROW_COLUMNS:
            self.rich_markup_mode = None
        for parameter in self.get_params(ctx):
            _prepare_for_help(parameter, markup=self.rich_markup_mode is not None)
        formatter.write("\n")  # an empty line before the usage; Typer's tables write their own
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels as plain sections, for narrow terminals and without Rich."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Arguments", []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records, col_max=formatter.width // 3)


def _prepare_for_help(parameter: Any, *, markup: bool) -> None:
    """Prepare a parameter for help: put Typer's own options in a panel, hide uninformative types, escape markup."""
    is_option = parameter.param_type_name == "option"
    if is_option:
        parameter.rich_help_panel = getattr(parameter, "rich_help_panel", None) or GENERAL
    if not is_option or parameter.is_flag:  # "<bool>" would suggest that a flag takes a value
        parameter.display_type_rich = _no_type
    if markup and parameter.help:
        parameter.help = re.sub(r"(?<!\\)\[", r"\\[", parameter.help)


def _no_type(ctx: Any) -> None:
    """Return None, so that help shows no type."""


class Command(_ExamplesFirst, TyperCommand):
    """One command of ``levit``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage with the metavar of each argument. Typer would add brackets and dots."""
        arguments = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(argument.metavar) for argument in arguments)]


class Group(_ExamplesFirst, TyperGroup):
    """The ``levit`` command, which contains all others."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(predict)
app.command(cls=Command)(embed)
app.command(cls=Command)(similar)
app.command(cls=Command)(duplicates)
app.command("eval", cls=Command)(evaluate)
app.command(cls=Command)(finetune)
app.command(cls=Command)(bench)
app.command(cls=Command)(info)
app.command(cls=Command)(convert_checkpoint)
app.command(cls=Command)(export)
app.command(cls=Command)(quantize)
app.command(cls=Command)(merge)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"levit {__version__}")
        raise typer.Exit


@app.callback()
def levit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify images quickly with LeViT.

    Examples:
        levit predict photo.jpg
        levit predict photos/ -o results.jsonl
        curl -s URL | levit predict -
        levit info levit-256
    """
    del version  # handled by the callback


def _write_utf8(*streams: TextIO | None) -> None:
    """Write UTF-8 and plain line feeds, as on other systems, whatever the code page of Windows is."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", newline="\n")


def main() -> NoReturn:
    """Run the ``levit`` command and exit."""
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns about broken metadata, which we tolerate
    if IS_WINDOWS:
        _write_utf8(sys.stdout, sys.stderr)
    try:
        app(prog_name="levit")
    except SystemExit as stop:
        # Typer and Rich turn a closed pipe into exit code 1.
        exit_now(ExitCode.BROKEN_PIPE if isinstance(stop.__context__, BrokenPipeError) else stop.code)
    except OSError as error:  # help or the version could not be printed
        log(f"Error: Cannot write to standard output · {error.strerror}")
        exit_now(ExitCode.OUTPUT)
    raise AssertionError("typer always exits")
