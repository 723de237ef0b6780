"""``levit embed --ray``: the run of ``levit predict --ray`` with another task."""

import io
from dataclasses import replace

from levit_cli.choices import VectorFormat
from levit_cli.data.inputs import InputOptions
from levit_cli.distributed.cluster import require_address
from levit_cli.distributed.parts import PartFormat, lines_of
from levit_cli.distributed.run import RayOptions, part_format_of, require_consistent, run_on_ray
from levit_cli.embed.run import BY_SUFFIX, VectorOptions, embedding
from levit_cli.engines import EngineSpec
from levit_cli.errors import ExitCode
from levit_cli.predict.model import ModelOptions, conflicts
from levit_cli.predict.prefetch import DecodeOptions
from levit_cli.predict.resume.fingerprint import Fingerprint
from levit_cli.predict.run import DisplayOptions, OutputOptions
from levit_cli.predict.run_description import RunDescription
from levit_cli.system.extras import extra
from levit_cli.system.progress import Log


def embed_on_ray(
    inputs: InputOptions,
    model: ModelOptions,
    spec: EngineSpec,
    decode_options: DecodeOptions,
    output: OutputOptions,
    vectors: VectorOptions,
    display: DisplayOptions,
    ray_options: RayOptions,
    log: Log,
    *,
    batch_size: int,
    debug: bool = False,
) -> ExitCode:
    """Compute the vectors of all inputs on Ray. Arguments and errors as for ``classify_on_ray``."""
    require_address(ray_options.address)
    others = conflicts(model, spec, decode_options.resizer)
    require_consistent(inputs, spec, decode_options, output, display, others, "embed")
    format = part_format_of(vectors.format, output, BY_SUFFIX)

    def make_format(_: RunDescription, fingerprint: Fingerprint) -> PartFormat:
        return _part_format(format, fingerprint)

    return run_on_ray(
        embedding(format, replace(vectors, format=format)), make_format, inputs, model, spec, decode_options, output,
        display, ray_options, log, batch_size=batch_size, top_k=0, debug=debug,
    )  # fmt: skip


def _part_format(format: VectorFormat, meta: Fingerprint) -> PartFormat:
    if format == "jsonl":
        return PartFormat("jsonl", bytes, lines_of)
    with extra("parquet", "Writing Parquet"):
        from levit_cli.embed.parquet import decode_part, encode_part

    return PartFormat(
        "parquet", lambda lines: encode_part(io.BytesIO(lines), meta["size"], meta["dtype"], meta), decode_part
    )
