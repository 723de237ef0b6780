"""``levit predict``: classify images."""

from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, archives, Parquet, globs, URLs of any kind, or - for an image on stdin.",
        ),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    labels: options.LabelsOption = None,
    sha256: options.Sha256Option = None,
    files_from: options.FilesFromOption = None,
    null: options.NullOption = False,
    follow_links: options.FollowLinksOption = False,
    image_column: options.ImageColumnOption = None,
    key_column: options.KeyColumnOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            show_default=False,
            rich_help_panel=options.MANY,
            help="Classify only the inputs of shard I of N, chosen by a hash of their paths; levit merge joins them.",
        ),
    ] = None,
    ray: options.RayOption = None,
    actors: options.ActorsOption = 0,
    cpus_per_actor: options.CpusPerActorOption = 1,
    gpus_per_actor: options.GpusPerActorOption = 0.0,
    records_per_part: options.RecordsPerPartOption = options.RECORDS_PER_PART,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k", "-k", min=1, metavar="N", rich_help_panel=options.OUTPUT, help="Number of classes per image."
        ),
    ] = 5,
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
    format: Annotated[
        choices.Format | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            rich_help_panel=options.OUTPUT,
            help="Output format: table, jsonl, json, csv, tsv or parquet. The default follows the suffix of -o. "
            "Without -o it is table on a terminal, else tsv.",
            show_default=False,
        ),
    ] = None,
    output: options.OutputOption = None,
    overwrite: options.OverwriteOption = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=options.OUTPUT,
            help="Continue the output of an interrupted run and retry the inputs that failed.",
        ),
    ] = False,
    preprocessing: options.PreprocessingOption = None,
    decode: options.DecodeOption = "exact",
    resizer: options.ResizerOption = "auto",
    workers: options.WorkersOption = 0,
    isolate: options.IsolateOption = False,
    timeout: options.TimeoutOption = 30.0,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 16,
    threads: options.ThreadsOption = 0,
    stats: options.StatsOption = False,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    debug: options.DebugOption = False,
    no_color: options.NoColorOption = False,
) -> ExitCode:
    """Classify images.

    Examples:
        levit predict photo.jpg
        levit predict photos/ -o results.jsonl
        levit predict photos/ -o results.jsonl --resume
        levit predict s3://bucket/2024/ -o s3://bucket/o.csv
        levit predict photos/ --min-prob 0.8 -f csv > labels.csv
        levit predict shard-*.tar photos.zip -o results.jsonl
        fd -e jpg -0 | levit predict --files-from - -0 --format jsonl
        curl -s URL | levit predict -
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.data.inputs import InputOptions
    from levit_cli.data.shards import parse_shard
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.predict.run import DisplayOptions, OutputOptions, classify
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    task = (
        InputOptions(
            tuple(inputs or ()),
            files_from,
            null,
            follow_links,
            ImageColumns(image_column, key_column),
            offline,
            shard=None if shard is None else parse_shard(shard),
        ),
        ModelOptions(model, labels, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, resizer, timeout, isolate, workers),
        OutputOptions(format, output, overwrite, resume),
        DisplayOptions(color=not no_color, stats=stats, quiet=quiet, verbose=verbose),
    )
    if ray is None:
        options.require_no_ray_options(actors, cpus_per_actor, gpus_per_actor, records_per_part)
        return classify(*task, log, batch_size=batch_size, top_k=top_k, min_prob=min_prob)
    from levit_cli.distributed.run import RayOptions, classify_on_ray

    ray_options = RayOptions(ray, actors, cpus_per_actor, gpus_per_actor, records_per_part)
    return classify_on_ray(*task, ray_options, log, batch_size=batch_size, top_k=top_k, min_prob=min_prob, debug=debug)
