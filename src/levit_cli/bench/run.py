"""One run of ``levit bench``: who runs, measured, and told.

What can be refused is refused before minutes are spent: options that contradict each other first, then files, then
models and devices. Nothing is written before everything is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from levit_cli.bench import compare as comparison
from levit_cli.bench import end_to_end as folder
from levit_cli.bench import machine
from levit_cli.bench import results as report
from levit_cli.bench.compare import Compared, Earlier
from levit_cli.bench.end_to_end import Passage
from levit_cli.bench.models import Net, baselines, levits, require_torchvision
from levit_cli.bench.protocol import Protocol, interleave
from levit_cli.bench.request import Request, check, format_of, protocol_of, spec_of
from levit_cli.bench.results import Row
from levit_cli.bench.runners import Contestant, ready
from levit_cli.checkpoints import Checkpoint, load
from levit_cli.choices import BenchFormat
from levit_cli.engines import EngineSpec, resolve_spec
from levit_cli.errors import ExitCode, RefusedError, UsageError
from levit_cli.predict.pipeline import OUT_OF_MEMORY
from levit_cli.system.output import write_output
from levit_cli.system.plotting import prepare_matplotlib
from levit_cli.system.progress import Log, progress, shows_progress

Draw = Callable[[Sequence[Row], dict[str, Any], str], bytes]


class Outcome(NamedTuple):
    """How a run ended. It holds on to the nets, as taking them down takes longer than leaving the process does."""

    exit_code: ExitCode
    contestants: Sequence[Contestant]


@dataclass(frozen=True)
class Findings:
    """Everything that was measured.

    Args:
        compared: with an earlier run; None where there is none.
        passages: of a folder; empty where there is none.
    """

    meta: dict[str, Any]
    rows: list[Row]
    compared: list[Compared] | None
    passages: list[Passage]


def bench(request: Request, log: Log) -> Outcome:
    """Measure, compare and write.

    Args:
        say: told what people should know; stderr.

    Returns:
        ``SOME_FAILED`` where a row is slower than ``--fail-below`` allows.

    Raises:
        LevitError: it cannot be measured, or not be written.
    """
    check(request)
    format = format_of(request)
    earlier = comparison.read_earlier(request.compare) if request.compare else None
    if request.end_to_end:
        folder.images_of(request.end_to_end)
    spec = resolve_spec(spec_of(request))
    nets = _nets(request, log)
    draw = _drawer() if request.plot else None
    contestants, findings = _measure(request, spec, nets, earlier, log)
    _write(request, format, findings, draw)
    if earlier:
        _say_what_differs(earlier, findings, log)
    return Outcome(_gate(request, findings, log), contestants)


def _nets(request: Request, log: Log) -> list[Net]:
    """Everybody who runs: LeViTs first, then the baselines, which ``--end-to-end`` leaves out unless they are named."""

    def loaded(name: str) -> Checkpoint:
        return load(
            name, offline=request.offline, sha256=request.sha256, warn=lambda message: log(f"Warning: {message}")
        )

    wants_baselines = not request.no_baselines and (request.against is not None or request.end_to_end is None)
    nets = levits(request.models, loaded)
    rivals = baselines(request.against, nets) if wants_baselines else []
    if rivals:
        require_torchvision()
    for name in {net.name for net in nets} & {rival.name for rival in rivals}:
        raise UsageError(f"Two nets are called {name}", hint=f"name the file or folder as ./{name}")
    nets += rivals
    if request.plot and not any(net.published for net in nets):
        raise UsageError(
            "There is nothing to plot", why="the paper gives none of these nets an accuracy", hint="leave --plot out"
        )
    return nets


def _measure(
    request: Request, spec: EngineSpec, nets: list[Net], earlier: Earlier | None, log: Log
) -> tuple[list[Contestant], Findings]:
    protocol = protocol_of(request)
    turns = len(nets) * (protocol.rounds + 2)
    if request.end_to_end:
        turns += len(nets) * (folder.PROTOCOL.rounds + 1)
    with progress(total=turns, shown=shows_progress(quiet=request.quiet), unit="", per_s=2) as bar:

        def on_step(text: str) -> None:
            bar.advance(text=text)

        contestants = [_ready(request, spec, net, on_step, log) for net in nets]
        _require_comparable(request, contestants, earlier)
        timings = interleave({each.net.name: each.step for each in contestants}, protocol, on_step=on_step)
        passages = []
        if request.end_to_end:
            passages = folder.measure_folder(request.end_to_end, nets, spec, request.batch_size, on_step)
    hardware = machine.paper_hardware(spec.device)
    rows = [Row(each, timings[each.net.name], protocol.average, hardware) for each in contestants]
    compared = comparison.compare(rows, earlier) if earlier else None
    return contestants, Findings(_meta(contestants[0], protocol), rows, compared, passages)


def _ready(request: Request, spec: EngineSpec, net: Net, on_step: Log, log: Log) -> Contestant:
    on_step(f"{net.name}: making it ready")
    try:
        contestant = ready(net, spec, request.batch_size, as_paper=request.protocol == "paper")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise RefusedError(f"{net.name} does not fit into memory", hint="take a smaller --batch-size") from error
    if request.verbose and not shows_progress(quiet=request.quiet):
        chosen = contestant.spec
        log(
            f"{net.name}: {chosen.engine} on {chosen.device} in {chosen.precision}, {chosen.threads} threads, "
            f"batches of {contestant.batch_size}, {'its own' if net.is_trained else 'random'} weights"
        )
    return contestant


def _require_comparable(request: Request, contestants: list[Contestant], earlier: Earlier | None) -> None:
    """A gate that compares nothing would let everything through."""
    if request.fail_below is None or earlier is None:
        return
    keys = [comparison.key_of(contestant) for contestant in contestants]
    if not any(key in earlier.speeds for key in keys):
        raise UsageError(
            f"{earlier.path} has no net of this run, so --fail-below cannot tell anything",
            why=f"this run begins with {keys[0]}, that one with {next(iter(earlier.speeds))}",
        )


def _meta(first: Contestant, protocol: Protocol) -> dict[str, Any]:
    return {
        "machine": machine.machine_name(),
        "cpu": machine.cpu_name(),
        "device": machine.device_name(first.spec.device),
        "threads": first.spec.threads,
        "versions": machine.versions(),
        "protocol": protocol.name,
        "warmup_s": protocol.warmup_s,
        "duration_s": protocol.duration_s,
        "rounds": protocol.rounds,
    }


def _write(request: Request, format: BenchFormat, findings: Findings, draw: Draw | None) -> None:
    content = _rendered(request, format, findings)
    write_output(request.output, content)
    if request.plot and draw:
        image = draw(findings.rows, findings.meta, request.plot.suffix.lower().removeprefix("."))
        write_output(request.plot, image)


def _rendered(request: Request, format: BenchFormat, findings: Findings) -> bytes:
    if format == "csv":
        return report.as_csv(findings.rows)
    if format == "json":
        more: dict[str, Any] = {}
        if findings.compared is not None:
            more["comparison"] = comparison.records(findings.compared)
        if findings.passages:
            more["end_to_end"] = folder.records(findings.passages)
        return report.as_json(findings.meta, findings.rows, **more)
    from levit_cli.bench.table import as_table

    color = request.color and request.output is None
    return as_table(findings.meta, findings.rows, findings.compared, findings.passages, color=color)


def _drawer() -> Draw:
    """What draws; asked for before anything is measured, for the sake of an installation where it is broken."""
    prepare_matplotlib()
    from levit_cli.bench.plot import draw

    return draw


def _say_what_differs(earlier: Earlier, findings: Findings, log: Log) -> None:
    for fact in ("cpu", "device", "protocol"):
        before, now = earlier.meta.get(fact), findings.meta[fact]
        if before not in (None, now):
            log(f"Warning: the earlier run had another {fact}: {before}, now {now}")
    missing = set(earlier.speeds).difference(comparison.key_of(row.contestant) for row in findings.rows)
    if missing:
        log(f"Not measured this time: {', '.join(sorted(map(str, missing)))}")


def _gate(request: Request, findings: Findings, log: Log) -> ExitCode:
    slower = [each for each in findings.compared or () if each.ratio < (request.fail_below or 0)]
    for each in slower:
        log(f"Too slow: {each.key} at {each.ratio:.3f} of before, where {request.fail_below:g} is the least")
    return ExitCode.SOME_FAILED if slower else ExitCode.OK
