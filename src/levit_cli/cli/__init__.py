"""The command ``levit``. Importing this is enough for help and no more; commands import what they need as they run."""

from typing import Annotated, NoReturn

import typer

from levit_cli import __version__
from levit_cli.cli.bench import bench
from levit_cli.cli.convert_checkpoint import convert_checkpoint
from levit_cli.cli.errors import leave
from levit_cli.cli.eval import evaluate
from levit_cli.cli.finetune import finetune
from levit_cli.cli.info import info
from levit_cli.cli.predict import predict
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

HELP = """Classify images with LeViT, fast.

    levit predict photo.jpg

    levit predict photos/ -o results.jsonl

    curl -s URL | levit predict -

    levit info levit-256
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(bench)
app.command()(convert_checkpoint)
app.command()(finetune)
app.command("eval")(evaluate)
app.command()(info)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"levit {__version__}")
        raise typer.Exit


@app.callback()
def levit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # the callback did it


levit.__doc__ = HELP


def main() -> NoReturn:
    """Entry point of the command ``levit``."""
    try:
        app(prog_name="levit")
    except SystemExit as stop:
        leave(stop.code)
    except OSError as error:  # of a help text or a version that nobody takes
        log(f"Error: Cannot write standard output · {error.strerror}")
        leave(ExitCode.OUTPUT)
    raise AssertionError("typer always exits")
