"""``levit embed``: compute feature vectors of images."""

from typing import Annotated

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log


@handle_errors
def embed(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, archives, Parquet, globs, URLs of any kind, or - for an image on stdin.",
        ),
    ] = None,
    model: options.ModelOption = options.DEFAULT_MODEL,
    sha256: options.Sha256Option = None,
    files_from: options.FilesFromOption = None,
    null: options.NullOption = False,
    follow_links: options.FollowLinksOption = False,
    image_column: options.ImageColumnOption = None,
    key_column: options.KeyColumnOption = None,
    format: Annotated[
        choices.VectorFormat | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            rich_help_panel=options.OUTPUT,
            help="Output format: npz, parquet or jsonl. The default follows the suffix of -o. Without -o it is jsonl.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        choices.VectorType, typer.Option(rich_help_panel=options.OUTPUT, help="Type of the numbers of a vector.")
    ] = "float32",
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize", rich_help_panel=options.OUTPUT, help="Divide each vector by its Euclidean (L2) norm."
        ),
    ] = False,
    output: options.OutputOption = None,
    ray: options.RayOption = None,
    actors: options.ActorsOption = 0,
    cpus_per_actor: options.CpusPerActorOption = 1,
    gpus_per_actor: options.GpusPerActorOption = 0.0,
    records_per_part: options.RecordsPerPartOption = options.RECORDS_PER_PART,
    overwrite: options.OverwriteOption = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=options.OUTPUT,
            help="Continue the jsonl output of an interrupted run and retry the inputs that failed.",
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
) -> ExitCode:
    """Compute the feature vectors of images.

    Examples:
        levit embed photos/ -o photos.npz
        levit embed photos/ -o photos.npz --dtype float16
        levit embed photos/ -o photos.jsonl --resume
        levit embed photo.jpg | jq -c .vector
        levit embed s3://bucket/2024/ -o vectors.parquet
    """
    from levit_cli.data.input import ImageColumns
    from levit_cli.data.inputs import InputOptions
    from levit_cli.embed.run import VectorOptions, embed_inputs
    from levit_cli.engines import EngineSpec
    from levit_cli.predict.model import ModelOptions
    from levit_cli.predict.prefetch import DecodeOptions
    from levit_cli.predict.run import DisplayOptions, OutputOptions
    from levit_cli.system.output import silence_libraries, silence_native_stderr

    if not debug:
        silence_native_stderr()
        silence_libraries()
    task = (
        InputOptions(
            tuple(inputs or ()), files_from, null, follow_links, ImageColumns(image_column, key_column), offline
        ),
        ModelOptions(model, None, preprocessing, sha256, offline),
        EngineSpec(device, engine, precision, threads),
        DecodeOptions(decode, resizer, timeout, isolate, workers),
        OutputOptions(None, output, overwrite, resume),
        VectorOptions(format, dtype, normalize),
        DisplayOptions(stats=stats, quiet=quiet, verbose=verbose),
    )
    if ray is None:
        options.require_no_ray_options(actors, cpus_per_actor, gpus_per_actor, records_per_part)
        return embed_inputs(*task, log, batch_size=batch_size)
    from levit_cli.distributed.embed import embed_on_ray
    from levit_cli.distributed.run import RayOptions

    ray_options = RayOptions(ray, actors, cpus_per_actor, gpus_per_actor, records_per_part)
    return embed_on_ray(*task, ray_options, log, batch_size=batch_size, debug=debug)
