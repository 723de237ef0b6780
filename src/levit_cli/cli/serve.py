"""``levit serve``: answer over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log

ADDRESS, ACCESS, LIMITS = "Address", "Access", "Limits"
TOKEN_VARIABLE = "LEVIT_SERVE_TOKEN"


@handle_errors
def serve(
    model: options.ModelOption = options.DEFAULT_MODEL,
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    host: Annotated[
        str,
        typer.Option(metavar="NAME", rich_help_panel=ADDRESS, help="Address to listen on; 0.0.0.0 or :: for all."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            "-p",
            min=0,
            max=65535,
            metavar="N",
            rich_help_panel=ADDRESS,
            help="TCP port. With 0, the system chooses a free one, which is printed.",
        ),
    ] = 8000,
    uds: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default=False,
            rich_help_panel=ADDRESS,
            help="Listen on a Unix domain socket instead of a TCP port.",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            show_default=False,
            rich_help_panel=ADDRESS,
            help="Prefix under which a reverse proxy publishes the server, such as /levit.",
        ),
    ] = "",
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            metavar="TOKEN",
            show_default=False,
            rich_help_panel=ACCESS,
            help="Require this bearer token, except for /healthz and /readyz. Other users of the machine can see "
            "command lines, so prefer the variable.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            rich_help_panel=ACCESS,
            help="Further name that the Host header may contain, besides addresses and localhost. Can be repeated.",
        ),
    ] = None,
    max_body: Annotated[
        str, typer.Option(metavar="SIZE", rich_help_panel=LIMITS, help="Maximum size of a request's body.")
    ] = "20MiB",
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=LIMITS,
            help="Number of requests that may wait. Further ones are refused with 429.",
        ),
    ] = 64,
    request_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            rich_help_panel=LIMITS,
            help="Maximum time to answer a request that was received; then 503.",
        ),
    ] = 30.0,
    client_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            rich_help_panel=LIMITS,
            help="Maximum time for a client to send headers, to go on sending a body, or to receive an answer.",
        ),
    ] = 10.0,
    grace: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            rich_help_panel=LIMITS,
            help="Time for accepted requests after SIGTERM or Ctrl-C.",
        ),
    ] = 20.0,
    min_prob: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="P",
            show_default=False,
            rich_help_panel=options.OUTPUT,
            help="Report for each image whether its first class has at least this probability (accepted). The default "
            "is the threshold that levit eval stored in the model, if any; 0 turns it off.",
        ),
    ] = None,
    preprocessing: options.PreprocessingOption = None,
    decode: options.DecodeOption = "exact",
    resizer: options.ResizerOption = "auto",
    workers: options.WorkersOption = 0,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate/--no-isolate",
            rich_help_panel=options.PREPROCESSING,
            help="Decode in separate processes. If the decoder crashes, only that image fails, not the server.",
        ),
    ] = True,
    timeout: options.TimeoutOption = 30.0,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 16,
    threads: options.ThreadsOption = 0,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            rich_help_panel=options.GENERAL,
            help="Report the model and engine, and each request as a line of JSON, on stderr.",
        ),
    ] = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Answer like levit predict, over HTTP.

    Examples:
        levit serve -m levit-256 --port 8000
        levit serve --port 0 --max-body 50MiB --queue 128
        LEVIT_SERVE_TOKEN=secret levit serve --host 0.0.0.0
        levit serve --uds /run/levit.sock --root-path /levit
    """
    from levit_cli.system.extras import extra

    with extra("serve", "levit serve"):
        from levit_cli.serve.run import ServeOptions, serve
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.serve.settings import Access, Address, Limits, checked_root_path, checked_token, parse_size
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE)  # empty, which typer ignores; the server would be open to all
    return serve(
        ModelOptions(model, labels, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, resizer, timeout, isolate, workers),
        ServeOptions(
            Address(host, port, uds, checked_root_path(root_path)),
            Access(checked_token(token), frozenset(name.lower() for name in allowed_host or ())),
            Limits(parse_size(max_body), queue, request_timeout, client_timeout, grace),
            batch_size,
            min_prob,
            quiet=quiet,
            verbose=verbose,
        ),
        log,
    )
