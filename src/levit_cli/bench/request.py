"""What was asked of ``levit bench``, and what of it can be refused before anything is measured."""

from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from levit_cli.bench.protocol import PROTOCOLS, Protocol
from levit_cli.choices import BenchFormat, BenchProtocol
from levit_cli.engines import EngineSpec
from levit_cli.errors import UsageError
from levit_cli.system.output import choose_format, require_free

PLOT_SUFFIXES = (".png", ".svg")
FORMATS: dict[str, BenchFormat] = {".json": "json", ".csv": "csv", ".txt": "table"}


@dataclass(frozen=True)
class Request:
    """The options of ``levit bench``, see there. None is what was not named."""

    models: tuple[str, ...] = ()
    against: str | None = None
    no_baselines: bool = False
    spec: EngineSpec = field(default_factory=EngineSpec)
    batch_size: int | None = None
    protocol: BenchProtocol = "quick"
    warmup_s: float | None = None
    duration_s: float | None = None
    end_to_end: Path | None = None
    plot: Path | None = None
    compare: Path | None = None
    fail_below: float | None = None
    format: BenchFormat | None = None
    output: Path | None = None
    overwrite: bool = False
    sha256: str | None = None
    offline: bool = False
    color: bool = True
    quiet: bool = False
    verbose: bool = False


def check(request: Request) -> None:
    """Find out what cannot be, for free.

    Raises:
        UsageError: options contradict each other, a number makes no sense, an output exists.
        OutputError: an output cannot be written.
    """
    if request.against is not None and request.no_baselines:
        raise UsageError("--against names baselines and --no-baselines leaves them out", hint="take one of the two")
    if request.fail_below is not None and request.compare is None:
        raise UsageError("--fail-below needs a run to compare with", hint="add --compare FILE")
    if request.end_to_end and request.protocol == "paper":
        raise UsageError("--end-to-end runs as predict does, not as the paper did", hint="leave --protocol out")
    _require_number("--duration", request.duration_s)
    _require_number("--warmup", request.warmup_s, zero=True)
    _require_number("--fail-below", request.fail_below)
    if request.plot and request.plot.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"{request.plot} does not say which kind of image", hint="end it in .png or .svg")
    outputs = [path for path in (request.output, request.plot) if path]
    if len(outputs) == 2 and outputs[0].absolute() == outputs[1].absolute():
        raise UsageError(f"-o and --plot are both {request.plot}")
    for path in outputs:
        require_free(path, filter(None, (request.compare,)), overwrite=request.overwrite)


def _require_number(option: str, value: float | None, *, zero: bool = False) -> None:
    if value is not None and not (isfinite(value) and (value > 0 or (zero and value == 0))):
        raise UsageError(f"{option} {value:g} makes no sense", why=f"it must be {'0 or more' if zero else 'above 0'}")


def format_of(request: Request) -> BenchFormat:
    """``--format`` wins, then the suffix of ``-o``, then a table."""
    return choose_format(request.format, request.output, FORMATS, "table")


def protocol_of(request: Request) -> Protocol:
    """The protocol with the times that were asked for."""
    protocol = PROTOCOLS[request.protocol]
    return replace(
        protocol,
        warmup_s=protocol.warmup_s if request.warmup_s is None else request.warmup_s,
        duration_s=protocol.duration_s if request.duration_s is None else request.duration_s,
    )


def spec_of(request: Request) -> EngineSpec:
    """The spec with what the protocol decides where nothing was named: the paper's is torch, one thread, fp32."""
    spec = request.spec
    if request.protocol == "quick":
        return spec
    if spec.engine == "auto":
        spec = replace(spec, engine="torch", device="cpu" if spec.device == "auto" else spec.device)
    if spec.precision == "auto" and spec.engine == "openvino":
        spec = replace(spec, precision="fp32")  # torch chooses that on a CPU by itself, and fp16 on a GPU
    return replace(spec, threads=spec.threads or 1)
