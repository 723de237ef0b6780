"""Compare a run with an earlier one.

Two rows are compared if they have the same model, engine, precision, batch size and number of threads.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from levit_cli.bench.results import SCHEMA_VERSION, Row, rounded, utf8_name
from levit_cli.bench.runners import ModelRunner
from levit_cli.errors import ExitCode, UsageError, reason_of
from levit_cli.system.progress import Log
from levit_cli.system.text import count_noun

MAX_BYTES = 16 << 20
HINT = "--compare takes a file written by levit bench --format json"


class Key(NamedTuple):
    """The settings that must be equal in two rows that are compared."""

    model: str
    engine: str
    precision: str
    batch_size: int
    threads: int

    def __str__(self) -> str:
        threads = count_noun(self.threads, "thread")
        return f"{self.model} ({self.engine}, {self.precision}, batch size {self.batch_size}, {threads})"


@dataclass(frozen=True)
class EarlierRun:
    """The results of an earlier run, from its JSON document.

    Args:
        speeds: images per second of each row.
        meta: the machine and the protocol; may be empty.
    """

    path: Path
    speeds: dict[Key, float]
    meta: dict[str, Any]


class Comparison(NamedTuple):
    """The images per second of a row in the earlier run and in this one."""

    key: Key
    before: float
    now: float

    @property
    def ratio(self) -> float:
        """The speed now divided by the earlier speed; above 1 is faster now."""
        return self.now / self.before


def read_earlier_run(path: Path) -> EarlierRun:
    """Read the JSON document of an earlier run.

    Raises:
        UsageError: the file cannot be read, or ``levit bench --format json`` did not write it.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(MAX_BYTES))
    except OSError as error:
        raise UsageError(f"Cannot read {path}", why=reason_of(error)) from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise UsageError(f"{path} is not JSON", why=str(error)[:200], hint=HINT) from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise _not_a_benchmark(path, f"it has no schema_version {SCHEMA_VERSION}")
    rows, meta = document.get("results"), document.get("meta")
    if not isinstance(rows, list) or not rows:
        raise _not_a_benchmark(path, "it has no results")
    return EarlierRun(path, dict(_key_and_speed(row, path) for row in rows), meta if isinstance(meta, dict) else {})


def _key_and_speed(row: Any, path: Path) -> tuple[Key, float]:
    values = row if isinstance(row, dict) else {}
    key = Key(*(values.get(field) for field in Key._fields))  # type: ignore[arg-type]  # checked below
    speed = values.get("images_per_s")
    valid = [isinstance(value, kind) for value, kind in zip(key, (str, str, str, int, int), strict=True)]
    if not all(valid) or not isinstance(speed, (int, float)) or not 0 < speed < float("inf"):
        raise _not_a_benchmark(path, f"a result lacks one of {', '.join(Key._fields)} or a positive images_per_s")
    return key, float(speed)


def _not_a_benchmark(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is not the result of a benchmark", why=why, hint=HINT)


def compare(rows: Sequence[Row], earlier: EarlierRun) -> list[Comparison]:
    """Compare the rows that both runs have, in the order of this run."""
    now = {key_of(row.runner): row.images_per_s for row in rows}
    return [Comparison(key, earlier.speeds[key], speed) for key, speed in now.items() if key in earlier.speeds]


def key_of(runner: ModelRunner) -> Key:
    spec = runner.spec
    return Key(utf8_name(runner.model.name), spec.engine, spec.precision, runner.batch_size, spec.threads)


def require_common_row(runners: Sequence[ModelRunner], earlier: EarlierRun) -> None:
    """Check that there is a row to compare. Otherwise ``--fail-below`` would always pass.

    Raises:
        UsageError: the two runs have no row in common.
    """
    keys = [key_of(runner) for runner in runners]
    if not any(key in earlier.speeds for key in keys):
        raise UsageError(
            f"{earlier.path} has no result to compare with this run, so --fail-below cannot be checked",
            why=f"the first result of this run is {keys[0]}, the first in the file is {next(iter(earlier.speeds))}",
            hint="measure with the same model, engine, precision, batch size and number of threads",
        )


def log_differences(earlier: EarlierRun, rows: Sequence[Row], meta: dict[str, Any], log: Log) -> None:
    """Log a warning if the machine or the protocol changed, and list the rows that only the earlier run has."""
    for key in ("cpu", "device", "protocol"):
        before, now = earlier.meta.get(key), meta[key]
        if before not in (None, now):
            log(f"Warning: the earlier run had another {key}: {before}; this run has {now}")
    missing = set(earlier.speeds).difference(key_of(row.runner) for row in rows)
    if missing:
        log(f"Not measured in this run: {', '.join(sorted(map(str, missing)))}")


def check_ratios(comparisons: Sequence[Comparison], fail_below: float, log: Log) -> ExitCode:
    """Log each row whose ratio is below ``fail_below``, and return ``SOME_FAILED`` if there is one."""
    slower = [comparison for comparison in comparisons if comparison.ratio < fail_below]
    for comparison in slower:
        why = f"--fail-below requires at least {fail_below:g}"
        log(f"Too slow: {comparison.key} runs at {comparison.ratio:.3f} times its earlier speed · {why}")
    return ExitCode.SOME_FAILED if slower else ExitCode.OK


def comparison_records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return the comparisons as JSON objects."""
    return [
        {**comparison.key._asdict(), "before_images_per_s": comparison.before, "ratio": rounded(comparison.ratio)}
        for comparison in comparisons
    ]
