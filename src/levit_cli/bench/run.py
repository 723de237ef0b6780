"""Run ``levit bench``: check the options, load the models, measure them, and write the results.

Measuring takes minutes. Options, files, models and devices are therefore checked first, in this order. The results are
written when everything has been measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levit_cli.bench import machine
from levit_cli.bench.compare import (
    Comparison,
    check_ratios,
    compare,
    comparison_records,
    log_differences,
    read_earlier_run,
    require_common_row,
)
from levit_cli.bench.end_to_end import PROTOCOL as END_TO_END_PROTOCOL
from levit_cli.bench.end_to_end import EndToEndRun, end_to_end_records, images_of, measure_folder
from levit_cli.bench.models import BenchModel, Selection, select_models
from levit_cli.bench.paper import Claim
from levit_cli.bench.protocol import Protocol, interleave, require_number
from levit_cli.bench.results import Row, as_csv, as_json
from levit_cli.bench.runners import ModelRunner, make_runner, protocol_spec
from levit_cli.choices import BenchFormat
from levit_cli.data.skipped import Skipped
from levit_cli.engines import EngineSpec, keep_until_exit, resolve_spec, wrong_precision
from levit_cli.errors import ExitCode, RefusedError, UsageError, raise_faults
from levit_cli.predict.pipeline import OUT_OF_MEMORY
from levit_cli.system.cpu import cpu_name
from levit_cli.system.extras import extra, pip_command, require_extra
from levit_cli.system.output import choose_format, require_free, write_output
from levit_cli.system.progress import Log, progress, shows_progress, silent
from levit_cli.system.text import count_noun

Draw = Callable[[Sequence[Row], dict[str, Any], str], bytes]

PLOT_SUFFIXES = (".png", ".svg")
FORMATS: dict[str, BenchFormat] = {".json": "json", ".csv": "csv", ".txt": "table"}


@dataclass(frozen=True)
class Outputs:
    """Where the results are written, and in which format.

    Args:
        path: None for standard output.
        format: None to choose the format by the suffix of ``path``.
        plot: file of the figure; None for no figure.
        color: use colors in a table on a terminal.
    """

    path: Path | None = None
    format: BenchFormat | None = None
    plot: Path | None = None
    overwrite: bool = False
    color: bool = True

    def require_free(self, inputs: Sequence[Path] = ()) -> None:
        """Check before any work that the files can be written.

        Raises:
            UsageError: a file exists, is one of ``inputs`` or is named twice, or the plot is neither .png nor .svg.
            OutputError: a file cannot be written.
        """
        if self.plot and self.plot.suffix.lower() not in PLOT_SUFFIXES:
            raise UsageError(f"Unknown image format of {self.plot}", hint="use a name that ends in .png or .svg")
        if self.path and self.plot and self.path.absolute() == self.plot.absolute():
            raise UsageError(f"-o and --plot name the same file, {self.plot}", hint="choose two different names")
        for path in filter(None, (self.path, self.plot)):
            require_free(path, inputs, overwrite=self.overwrite)

    def chosen_format(self) -> BenchFormat:
        """Return ``--format``, else the format of the suffix, else a table.

        Raises:
            UsageError: the suffix is not that of a format.
        """
        return choose_format(self.format, self.path, FORMATS, "table")


@dataclass(frozen=True)
class Results:
    """The measurements of one run.

    Args:
        meta: the machine, the software and the protocol.
        comparisons: with an earlier run; None without ``--compare``.
        end_to_end_runs: empty without ``--end-to-end``.
        unjudged: claims that cannot be judged without torch.
    """

    meta: dict[str, Any]
    rows: list[Row]
    comparisons: list[Comparison] | None
    end_to_end_runs: list[EndToEndRun]
    unjudged: tuple[Claim, ...] = ()


def bench(
    selection: Selection,
    spec: EngineSpec,
    batch_size: int | None,
    protocol: Protocol,
    outputs: Outputs,
    *,
    folder: Path | None = None,
    compare_with: Path | None = None,
    fail_below: float | None = None,
    quiet: bool = False,
    verbose: bool = False,
    log: Log = silent,
) -> ExitCode:
    """Measure models, compare them with an earlier run, and write the results.

    Args:
        batch_size: None for the default of the device or of the paper.
        folder: images for the end-to-end measurement; None to skip it.
        compare_with: JSON document of an earlier run.
        fail_below: minimum ratio of a row's speed to its earlier speed.
        verbose: log the engine of each model and each skipped file.

    Returns:
        ``SOME_FAILED`` if a row is slower than ``fail_below`` allows.

    Raises:
        LevitError: the models cannot be measured, or the results cannot be written.
    """
    _check_options(selection, protocol, folder, compare_with, fail_below)
    _require_torch(selection, spec, protocol)
    outputs.require_free([compare_with] if compare_with else [])
    format = outputs.chosen_format()
    earlier = read_earlier_run(compare_with) if compare_with else None
    skipped = Skipped(log if verbose and not quiet else None)
    if folder:
        images_of(folder, skipped)
        if skipped.counts and not quiet:
            log(skipped.sentence())
    spec = resolve_spec(protocol_spec(spec, protocol.name))
    selected = select_models(selection, log, default_baselines=folder is None)
    models = selected.models
    draw = _load_plot(models) if outputs.plot else None
    shown = shows_progress(quiet=quiet)
    with progress(total=_turns(models, protocol, folder), shown=shown, unit="", per_s=2) as bar:

        def on_turn(text: str) -> None:
            bar.advance(text=text)

        runners = _make_runners(models, spec, batch_size, protocol, on_turn, log if verbose and not shown else silent)
        if earlier and fail_below is not None:
            require_common_row(runners, earlier)
        rows = _measure(runners, protocol, on_turn)
        end_to_end_runs = measure_folder(folder, models, spec, batch_size, on_turn) if folder else []
    comparisons = compare(rows, earlier) if earlier else None
    results = Results(_meta(runners[0].spec, protocol), rows, comparisons, end_to_end_runs, selected.unjudged)
    _write(results, outputs, format, draw)
    if selected.unjudged and not quiet:
        _log_unjudged(selected.unjudged, log)
    if earlier:
        log_differences(earlier, rows, results.meta, log)
    return check_ratios(comparisons or (), fail_below or 0, log)


def _check_options(
    selection: Selection, protocol: Protocol, folder: Path | None, compare_with: Path | None, fail_below: float | None
) -> None:
    faults = []
    if selection.against is not None and selection.no_baselines:
        faults.append(UsageError("--against and --no-baselines contradict each other", hint="use one of them"))
    if fail_below is not None and compare_with is None:
        faults.append(UsageError("--fail-below needs an earlier run", hint="add --compare FILE"))
    if folder and protocol.name == "paper":
        what = "--end-to-end cannot be used with --protocol paper"
        faults.append(UsageError(what, why="it measures levit predict", hint="leave --protocol out"))
    raise_faults(faults)
    require_number("--fail-below", fail_below)


def _require_torch(selection: Selection, spec: EngineSpec, protocol: Protocol) -> None:
    """Check that torch is installed if an option needs it, and that a torch engine need not compute in int8."""
    raise_faults(wrong_precision(spec))
    needs_torch = {
        "--against": selection.against is not None,
        "--protocol paper": protocol.name == "paper",
        f"--engine {spec.engine}": spec.engine in ("torch", "compile"),
        f"--device {spec.device}": spec.device not in ("auto", "cpu") and spec.engine != "openvino",
    }
    for option, is_used in needs_torch.items():
        if is_used:
            require_extra("torch", option)


def _log_unjudged(claims: Sequence[Claim], log: Log) -> None:
    pairs = ", ".join(f"{claim.fast} against {claim.slow}" for claim in claims)
    log(f"Claims not judged: {pairs} · their baselines need the extra 'torch' · {pip_command('torch')}")


def _load_plot(models: list[BenchModel]) -> Draw:
    """Import the plotting code. This is done before measuring, because matplotlib may be missing or broken."""
    if not any(model.published for model in models):
        raise UsageError(
            "There is nothing to plot", why="the paper lists none of these models", hint="leave --plot out"
        )
    with extra("plot", "--plot"):
        from levit_cli.bench.plot import draw
    return draw


def _turns(models: list[BenchModel], protocol: Protocol, folder: Path | None) -> int:
    """Count the steps of the progress bar, which are the preparation, the warm-up and the rounds of each model."""
    end_to_end = END_TO_END_PROTOCOL.rounds + 1 if folder else 0
    return len(models) * (protocol.rounds + 2 + end_to_end)


def _make_runners(
    models: list[BenchModel],
    spec: EngineSpec,
    batch_size: int | None,
    protocol: Protocol,
    on_turn: Callable[[str], None],
    log: Log,
) -> list[ModelRunner]:
    runners = []
    for model in models:
        on_turn(f"{model.name}: preparing")
        runner = _make_runner(model, spec, batch_size, as_paper=protocol.name == "paper")
        keep_until_exit(runner)
        log(_describe(runner))
        runners.append(runner)
    return runners


def _make_runner(model: BenchModel, spec: EngineSpec, batch_size: int | None, *, as_paper: bool) -> ModelRunner:
    try:
        return make_runner(model, spec, batch_size, as_paper=as_paper)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise RefusedError(f"{model.name} does not fit into memory", hint="use a smaller --batch-size") from error


def _describe(runner: ModelRunner) -> str:
    spec, weights = runner.spec, "trained" if runner.model.is_trained else "random"
    return (
        f"{runner.model.name}: {spec.engine} on {spec.device} in {spec.precision}, "
        f"{count_noun(spec.threads, 'thread')}, batch size {runner.batch_size}, {weights} weights"
    )


def _measure(runners: list[ModelRunner], protocol: Protocol, on_turn: Callable[[str], None]) -> list[Row]:
    timings = interleave({runner.model.name: runner.step for runner in runners}, protocol, on_turn=on_turn)
    hardware = machine.paper_hardware(runners[0].spec.device)
    return [Row(runner, timings[runner.model.name], protocol.average, hardware) for runner in runners]


def _meta(spec: EngineSpec, protocol: Protocol) -> dict[str, Any]:
    return {
        "machine": machine.machine_name(),
        "cpu": cpu_name(),
        "device": machine.device_name(spec.device),
        "threads": spec.threads,
        "versions": machine.versions(),
        "protocol": protocol.name,
        "warmup_s": protocol.warmup_s,
        "duration_s": protocol.duration_s,
        "rounds": protocol.rounds,
    }


def _write(results: Results, outputs: Outputs, format: BenchFormat, draw: Draw | None) -> None:
    write_output(outputs.path, _render(results, format, color=outputs.color and outputs.path is None))
    if outputs.plot and draw:
        image = draw(results.rows, results.meta, outputs.plot.suffix.lower().removeprefix("."))
        write_output(outputs.plot, image)


def _render(results: Results, format: BenchFormat, *, color: bool) -> bytes:
    if format == "csv":
        return as_csv(results.rows)
    if format == "json":
        optional: dict[str, Any] = {}
        if results.comparisons is not None:
            optional["comparison"] = comparison_records(results.comparisons)
        if results.end_to_end_runs:
            optional["end_to_end"] = end_to_end_records(results.end_to_end_runs)
        return as_json(results.meta, results.rows, results.unjudged, **optional)
    from levit_cli.bench.table import as_table

    return as_table(results.meta, results.rows, results.comparisons, results.end_to_end_runs, color=color)
