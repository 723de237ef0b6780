"""``levit export``: write a model for other runtimes and prove that it answers like the original."""

from pathlib import Path
from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.MODEL_HELP)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", rich_help_panel=options.OUTPUT, help="Folder to create."),
    ],
    to: Annotated[
        choices.ExportTarget,
        typer.Option("--to", rich_help_panel=options.OUTPUT, help="Runtime: OpenVINO IR files, or one ONNX file."),
    ],
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    preprocessing: options.PreprocessingOption = None,
    offline: options.OfflineOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Export a model to another runtime, with a script that uses it, and prove that it answers like the original.

    Examples:
        levit export demo -o demo-onnx --to onnx
        levit export runs/flowers -o flowers-openvino --to openvino
    """
    from levit_cli.export.run import export as run
    from levit_cli.export.run import require_possible
    from levit_cli.predict.model import ModelOptions, load_model
    from levit_cli.system.output import Sink

    del debug  # read by handle_errors
    require_possible(output, to, preprocessing)
    checkpoint = load_model(ModelOptions(model, labels, preprocessing, sha256, offline), log, verbose=verbose)
    if checkpoint.int8 is not None:
        log(f"Note: {model} is a quantized model; its original weights are exported, not the int8 graph")
    report = run(checkpoint, output, to)
    with Sink(None) as sink:
        sink.write(report.as_text().encode())
    return ExitCode.OK
