"""Represent the results of a run, a row for each model and a verdict on each claim, and format them as JSON and CSV.

A claim compares two models of one run, so both have the same engine, precision and number of threads. The paper's ratio
was measured on the machine of the paper that is most similar to this one. The claim holds if the ratio measured here is
at least as large.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from levit_cli.bench.paper import CLAIMS, HARDWARE, PUBLISHED, Claim
from levit_cli.bench.protocol import Average, Timing
from levit_cli.bench.runners import ModelRunner
from levit_cli.system.text import count_noun

SCHEMA_VERSION = 1
SIGNIFICANT_DIGITS = 5  # more than the accuracy of a measurement


@dataclass(frozen=True)
class Row:
    """The measurement of one model.

    Args:
        average: the average of the step times from which the speed is computed.
        hardware: the machine of the paper with which the row is compared; a key of ``HARDWARE``.
    """

    runner: ModelRunner
    timing: Timing
    average: Average
    hardware: str

    @property
    def name(self) -> str:
        return self.runner.model.name

    @property
    def published(self) -> str | None:
        return self.runner.model.published

    @property
    def images_per_s(self) -> float:
        return self.runner.batch_size / self.timing.average_s(self.average)

    @property
    def published_images_per_s(self) -> float | None:
        return _published_speed(self.published, self.hardware) if self.published else None

    @property
    def round_speeds(self) -> tuple[float, ...]:
        """Images per second in each round."""
        return tuple(self.runner.batch_size / seconds for seconds in self.timing.medians_s())


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper, compared with the speed ratio measured here.

    Args:
        lowest, highest: lowest and highest ratio of the rounds.
    """

    claim: Claim
    paper_ratio: float
    measured_ratio: float
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        return self.measured_ratio >= self.paper_ratio

    @property
    def rounds_agree(self) -> bool:
        """Whether the ratio of every single round gives the same verdict."""
        return (self.lowest >= self.paper_ratio) == (self.highest >= self.paper_ratio) == self.holds


def _published_speed(name: str, hardware: str) -> float:
    speed: float = getattr(PUBLISHED[name], hardware)
    return speed


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on each claim whose two models were measured."""
    by_name = {row.published: row for row in reversed(rows) if row.published}
    pairs = [(claim, by_name.get(claim.fast), by_name.get(claim.slow)) for claim in CLAIMS]
    return [_verdict(claim, fast, slow) for claim, fast, slow in pairs if fast and slow]


def _verdict(claim: Claim, fast: Row, slow: Row) -> Verdict:
    ratios = [a / b for a, b in zip(fast.round_speeds, slow.round_speeds, strict=True)]
    paper_ratio = _paper_ratio(claim, fast.hardware)
    return Verdict(claim, paper_ratio, fast.images_per_s / slow.images_per_s, min(ratios), max(ratios))


def _paper_ratio(claim: Claim, hardware: str) -> float:
    return _published_speed(claim.fast, hardware) / _published_speed(claim.slow, hardware)


def row_record(row: Row) -> dict[str, Any]:
    """Return a row as a JSON object; its keys are stable."""
    runner, timing = row.runner, row.timing
    return {
        "model": utf8_name(row.name),
        "engine": runner.spec.engine,
        "precision": runner.spec.precision,
        "batch_size": runner.batch_size,
        "threads": runner.spec.threads,
        "images_per_s": rounded(row.images_per_s),
        "p50_ms": rounded(1000 * timing.median_s),
        "p90_ms": rounded(1000 * timing.p90_s),
        "cv": rounded(timing.cv),
        "params": runner.params,
        "macs": runner.macs,
        "paper": _paper_record(row),
    }


def _paper_record(row: Row) -> dict[str, Any] | None:
    if row.published is None:
        return None
    return {
        "top1": PUBLISHED[row.published].top1,
        "images_per_s": row.published_images_per_s,
        "hardware": HARDWARE[row.hardware],
    }


def claim_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a JSON object; its keys are stable."""
    return {
        "fast": verdict.claim.fast,
        "slow": verdict.claim.slow,
        "paper_ratio": rounded(verdict.paper_ratio),
        "measured_ratio": rounded(verdict.measured_ratio),
        "holds": verdict.holds,
    }


def unjudged_record(claim: Claim, hardware: str) -> dict[str, Any]:
    """Return a claim that cannot be judged without torch as a JSON object; its keys are stable."""
    return {
        "fast": claim.fast,
        "slow": claim.slow,
        "paper_ratio": rounded(_paper_ratio(claim, hardware)),
        "measured_ratio": None,
        "holds": None,
        "needs": "torch",
    }


def as_json(meta: Mapping[str, Any], rows: Sequence[Row], unjudged: Sequence[Claim] = (), **optional: Any) -> bytes:
    """Format the JSON document.

    Args:
        unjudged: claims that cannot be judged without torch.
        optional: further keys, which only some runs have, such as ``end_to_end``.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "meta": dict(meta),
        "results": [row_record(row) for row in rows],
        "claims": [
            *(claim_record(verdict) for verdict in verdicts(rows)),
            *(unjudged_record(claim, rows[0].hardware) for claim in unjudged),
        ],
        **optional,
    }
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def as_csv(rows: Sequence[Row]) -> bytes:
    """Format the rows as CSV: a header and a line for each model, without the claims."""
    records = [_flat(row_record(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*records[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode("utf-8")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    paper = record.pop("paper") or {}
    return record | {f"paper_{key}": paper.get(key, "") for key in ("top1", "images_per_s", "hardware")}


def describe_machine(meta: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the device, the engine and the precision of a run; for a CPU also the number of threads."""
    spec = rows[0].runner.spec
    precisions = " and ".join(dict.fromkeys(row.runner.spec.precision for row in rows))
    device = f"{meta['cpu']}, {count_noun(spec.threads, 'thread')}" if meta["device"] == "cpu" else meta["device"]
    return f"{device}, {spec.engine} in {precisions}"


def utf8_name(name: str) -> str:
    """Return the name with its invalid UTF-8 bytes escaped; a path may contain some."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def rounded(value: float) -> float:
    """Round to ``SIGNIFICANT_DIGITS``."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
