"""Options that several commands share, said once. Nothing heavy is imported to show a help text."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="LEVIT_MODEL", metavar="MODEL", show_default="levit-256",
        help="A variant (levit-128S … levit-384), 'demo', a hub id owner/name[@rev], a path, or an https address.",
    ),
]  # fmt: skip
DeviceOption = Annotated[
    choices.Device, typer.Option(envvar="LEVIT_DEVICE", help="Where the network runs. auto is the CPU.")
]
EngineOption = Annotated[
    choices.EngineName,
    typer.Option(envvar="LEVIT_ENGINE", help="auto is openvino on a CPU and torch on a GPU."),
]
PrecisionOption = Annotated[
    choices.Precision, typer.Option(help="auto is bf16 where the CPU has instructions for it, else fp32.")
]
ThreadsOption = Annotated[
    int, typer.Option(min=0, help="Of the network. 0 is all that this process may use.", show_default="all")
]
PreprocessingOption = Annotated[
    choices.PreprocessingName | None,
    typer.Option(help="Preprocessing; without it the checkpoint's own.", show_default=False),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Names of the classes: one a line, or JSON.", show_default=False),
]
Sha256Option = Annotated[
    str | None,
    typer.Option("--sha256", metavar="HEX", help="What a model from an address must hash to.", show_default=False),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no closing line.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what was chosen.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

DEFAULT_MODEL = "levit-256"
