"""Define the options that several commands share, and the panels of the help.

The module imports nothing heavy, so that ``--help`` is fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.errors import UsageError, raise_faults

MODEL, INPUT, OUTPUT, MANY = "Model", "Input", "Output", "Many machines"
PREPROCESSING, ENGINE, GENERAL = "Preprocessing", "Engine", "General"

MODEL_HELP = "A variant (levit-128S … levit-384), 'demo', a hub id owner/name[@rev], a path, or an https:// URL."


def _stdout_if_dash(path: Path | None) -> Path | None:
    """Return None, which is stdout, for ``-o -``, as in other programs. A file of that name is ``/folder/-``."""
    return None if str(path) == "-" else path


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="LEVIT_MODEL", metavar="MODEL", rich_help_panel=MODEL,
        help=MODEL_HELP,
    ),
]  # fmt: skip
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default=False, rich_help_panel=MODEL,
        help="Read the class names from a file: one name per line, a table, or JSON.",
    ),
]  # fmt: skip
Sha256Option = Annotated[
    str | None,
    typer.Option(
        "--sha256", metavar="HEX", show_default=False, rich_help_panel=MODEL,
        help="Expected SHA-256 hash of the weight file, if the model is a URL.",
    ),
]  # fmt: skip
ImageColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", show_default=False, rich_help_panel=INPUT,
        help="Column of the images in Parquet files. The default is image, or the only column that can hold images.",
    ),
]  # fmt: skip
KeyColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", show_default=False, rich_help_panel=INPUT,
        help="Column of Parquet files whose values are the paths in the records. The default is FILE#ROW.",
    ),
]  # fmt: skip
PreprocessingOption = Annotated[
    choices.PreprocessingName | None,
    typer.Option(
        show_default=False, rich_help_panel=PREPROCESSING,
        help="Use a published preprocessing instead of the checkpoint's own.",
    ),
]  # fmt: skip
DecodeOption = Annotated[
    choices.Decoding,
    typer.Option(
        rich_help_panel=PREPROCESSING,
        help="JPEG decoding: exact, or fast, which decodes photos that are at least 4 times larger than needed at a "
        "reduced size.",
    ),
]
ResizerOption = Annotated[
    choices.Resizer,
    typer.Option(
        rich_help_panel=PREPROCESSING,
        help="Library that resizes: simd is cykooz-resizer, pillow is slower. auto is simd where it is installed.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", rich_help_panel=PREPROCESSING,
        help="Number of images that are decoded at the same time. 0 is one per core.",
    ),
]  # fmt: skip
DeviceOption = Annotated[
    choices.Device,
    typer.Option(
        envvar="LEVIT_DEVICE", rich_help_panel=ENGINE,
        help="Device that runs the network. auto is the CPU; with --engine torch or compile, a GPU if available.",
    ),
]  # fmt: skip
EngineOption = Annotated[
    choices.EngineName,
    typer.Option(
        envvar="LEVIT_ENGINE", rich_help_panel=ENGINE,
        help="Library that runs the network. auto is openvino on a CPU and torch on a GPU.",
    ),
]  # fmt: skip
PrecisionOption = Annotated[
    choices.Precision,
    typer.Option(
        rich_help_panel=ENGINE,
        help="Number format of the computation. auto is int8 for a model of levit quantize and bf16 for others on a "
        "CPU that supports it, fp16 on a GPU, and fp32 otherwise.",
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option("--batch-size", "-b", min=1, metavar="N", rich_help_panel=ENGINE, help="Number of images per batch."),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", rich_help_panel=ENGINE,
        help="Number of CPU threads that run the network. 0 uses all threads available to the process.",
    ),
]  # fmt: skip
FilesFromOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        rich_help_panel=INPUT,
        help="Read the inputs from a file, one per line; - reads stdin.",
    ),
]
NullOption = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        rich_help_panel=INPUT,
        help="Expect a NUL byte instead of a line break after each input in --files-from.",
    ),
]
FollowLinksOption = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        rich_help_panel=INPUT,
        help="Include symbolic links in folders. Without this option they are skipped.",
    ),
]
IsolateOption = Annotated[
    bool,
    typer.Option(
        "--isolate",
        rich_help_panel=PREPROCESSING,
        help="Decode in separate processes. If the decoder crashes or hangs, only that image fails, not the run.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        rich_help_panel=PREPROCESSING,
        help="Maximum time to decode one image.",
    ),
]
StatsOption = Annotated[
    bool,
    typer.Option("--stats", rich_help_panel=GENERAL, help="Report the time of each step of the run on stderr."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", show_default=False, rich_help_panel=OUTPUT, callback=_stdout_if_dash,
        help="Write the results to a file instead of stdout.",
    ),
]  # fmt: skip
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace the output if it exists.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|ADDRESS", show_default=False, rich_help_panel=MANY,
        help="Run on Ray: on this machine, on the running cluster, or on the one at HOST:PORT. -o names a folder.",
    ),
]  # fmt: skip
ActorsOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", rich_help_panel=MANY,
        help="Number of Ray actors, each with one engine. 0 starts as many as the cluster has room for.",
    ),
]  # fmt: skip
CpusPerActorOption = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=MANY,
        help="Number of cores per actor, for its network and for decoding its images.",
    ),
]  # fmt: skip
GpusPerActorOption = Annotated[
    float, typer.Option(min=0.0, metavar="N", rich_help_panel=MANY, help="Number of GPUs per actor.")
]
RecordsPerPartOption = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=MANY, help="Maximum number of records in each file of the output folder."
    ),
]  # fmt: skip
RECORDS_PER_PART = 50_000
OfflineOption = Annotated[
    bool, typer.Option("--offline", rich_help_panel=GENERAL, help="Use cached models only and download nothing.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=GENERAL, help="Show no progress and no summary.")
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", rich_help_panel=GENERAL, help="Report the model, preprocessing and engine on stderr."
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", rich_help_panel=GENERAL, help="Print a traceback after an error.")
]
NoColorOption = Annotated[
    bool, typer.Option("--no-color", rich_help_panel=GENERAL, help="Print the table without colors.")
]

DEFAULT_MODEL = choices.DEFAULT_MODEL


def require_no_ray_options(actors: int, cpus_per_actor: int, gpus_per_actor: float, records_per_part: int) -> None:
    """Check that no option was given that needs ``--ray``.

    Raises:
        UsageError: one was given.
    """
    given = {
        "--actors": actors != 0,
        "--cpus-per-actor": cpus_per_actor != 1,
        "--gpus-per-actor": gpus_per_actor != 0,
        "--records-per-part": records_per_part != RECORDS_PER_PART,
    }
    raise_faults([UsageError(f"{name} needs --ray") for name, is_given in given.items() if is_given])
