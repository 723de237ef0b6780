"""What was measured, as values: a row for each net, a verdict for each claim, and the document that scripts read.

A claim compares two nets of one run, so in the same engine, precision and threads. It is held against the one of the
paper's machines that is of this machine's kind, and holds if the fast net is at least as many times faster here.
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
from levit_cli.bench.runners import Contestant

SCHEMA_VERSION = 1
DIGITS = 5


@dataclass(frozen=True)
class Row:
    """A net and what it took.

    Args:
        average: of the steps, from which the speed is computed.
        hardware: the machine of the paper beside which it is put; a key of ``HARDWARE``.
    """

    contestant: Contestant
    timing: Timing
    average: Average
    hardware: str

    @property
    def name(self) -> str:
        return self.contestant.net.name

    @property
    def published(self) -> str | None:
        return self.contestant.net.published

    @property
    def images_per_s(self) -> float:
        return self.contestant.batch_size / self.timing.average_s(self.average)

    @property
    def published_images_per_s(self) -> float | None:
        return _published_speed(self.published, self.hardware) if self.published else None

    @property
    def round_speeds(self) -> tuple[float, ...]:
        """Images per second, round by round."""
        return tuple(self.contestant.batch_size / seconds for seconds in self.timing.medians_s())


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper and the same ratio here.

    Args:
        lowest, highest: of the ratios round by round.
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
    def is_sure(self) -> bool:
        """Whether each round alone would say the same."""
        return (self.lowest >= self.paper_ratio) == (self.highest >= self.paper_ratio) == self.holds


def _published_speed(name: str, hardware: str) -> float:
    speed: float = getattr(PUBLISHED[name], hardware)
    return speed


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """All claims of which both nets were measured."""
    by_name = {row.published: row for row in reversed(rows) if row.published}
    pairs = [(claim, by_name.get(claim.fast), by_name.get(claim.slow)) for claim in CLAIMS]
    return [_verdict(claim, fast, slow) for claim, fast, slow in pairs if fast and slow]


def _verdict(claim: Claim, fast: Row, slow: Row) -> Verdict:
    ratios = [ours / theirs for ours, theirs in zip(fast.round_speeds, slow.round_speeds, strict=True)]
    paper = _published_speed(claim.fast, fast.hardware) / _published_speed(claim.slow, slow.hardware)
    return Verdict(claim, paper, fast.images_per_s / slow.images_per_s, min(ratios), max(ratios))


def row_record(row: Row) -> dict[str, Any]:
    """A row as the JSON object of the command line's contract."""
    contestant, timing = row.contestant, row.timing
    return {
        "model": printable_name(row.name),
        "engine": contestant.spec.engine,
        "precision": contestant.spec.precision,
        "batch_size": contestant.batch_size,
        "threads": contestant.spec.threads,
        "images_per_s": rounded(row.images_per_s),
        "p50_ms": rounded(1000 * timing.median_s),
        "p90_ms": rounded(1000 * timing.p90_s),
        "cv": rounded(timing.cv),
        "params": contestant.params,
        "macs": contestant.macs,
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
    """A verdict as the JSON object of the command line's contract."""
    return {
        "fast": verdict.claim.fast,
        "slow": verdict.claim.slow,
        "paper_ratio": rounded(verdict.paper_ratio),
        "measured_ratio": rounded(verdict.measured_ratio),
        "holds": verdict.holds,
    }


def as_json(meta: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> bytes:
    """The document.

    Args:
        more: further keys, for what only some runs measure.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "meta": dict(meta),
        "results": [row_record(row) for row in rows],
        "claims": [claim_record(verdict) for verdict in verdicts(rows)],
        **more,
    }
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def as_csv(rows: Sequence[Row]) -> bytes:
    """A header and a line for each net; the claims have no place there."""
    records = [_flat(row_record(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*records[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode("utf-8")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    paper = record.pop("paper") or {}
    return record | {f"paper_{key}": paper.get(key, "") for key in ("top1", "images_per_s", "hardware")}


def where(meta: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Processor, threads, engine and precision, of all rows."""
    spec = rows[0].contestant.spec
    noun = "thread" if spec.threads == 1 else "threads"
    device = f"{meta['cpu']}, {spec.threads} {noun}" if meta["device"] == "cpu" else meta["device"]
    return f"{device}, {spec.engine} in {spec.precision}"


def printable_name(name: str) -> str:
    """A name that UTF-8 can hold: bytes of a path that it cannot are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def rounded(value: float) -> float:
    """To as many digits as a measurement has, and more."""
    return float(f"{value:.{DIGITS}g}")
