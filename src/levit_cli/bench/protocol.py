"""Time several models in one run, interleaved.

Each model is warmed up first. The models are then timed in rounds, A B C, A B C, …, so that a disturbance of the
machine affects all of them. A turn is one model's part of a round. It starts with untimed steps, because the caches
still hold another model's data. The ratio of two models can be computed for each round, and the spread of these ratios
shows how reliable it is.

``benchmarks/`` uses this module as well: it imports nothing heavy.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from math import isfinite
from statistics import fmean, median, pstdev
from typing import Literal

from levit_cli.choices import BenchProtocol
from levit_cli.errors import UsageError

Step = Callable[[], object]
Clock = Callable[[], float]
Average = Literal["median", "mean"]
UNSTABLE_CV = 0.1


@dataclass(frozen=True)
class Protocol:
    """How long and in how many rounds each model is timed.

    Args:
        warmup_s: seconds that each model runs before the first round; at least one step is run.
        duration_s: seconds of timed steps for each model, over all rounds; at least one step per round is timed.
        average: the average of the step times from which the speed is computed.
        untimed: steps at the start of each turn that are not timed.
    """

    name: BenchProtocol
    warmup_s: float
    duration_s: float
    rounds: int
    average: Average
    untimed: int = 1


PROTOCOLS: dict[BenchProtocol, Protocol] = {
    "quick": Protocol("quick", warmup_s=0.3, duration_s=2.5, rounds=5, average="median"),
    # times and average of the authors' speed_test.py, which does not interleave the models
    "paper": Protocol("paper", warmup_s=10, duration_s=60, rounds=6, average="mean"),
}


def single_steps(rounds: int) -> Protocol:
    """Return a protocol for long steps: one warm-up step, then one timed step in each round."""
    return Protocol("quick", warmup_s=0, duration_s=0, rounds=rounds, average="median", untimed=0)


def make_protocol(name: BenchProtocol, *, warmup_s: float | None = None, duration_s: float | None = None) -> Protocol:
    """Return the named protocol, with its times replaced by those that are not None.

    Raises:
        UsageError: a time is negative, infinite or NaN, or the duration is 0.
    """
    require_number("--duration", duration_s)
    require_number("--warmup", warmup_s, allow_zero=True)
    protocol = PROTOCOLS[name]
    return replace(
        protocol,
        warmup_s=protocol.warmup_s if warmup_s is None else warmup_s,
        duration_s=protocol.duration_s if duration_s is None else duration_s,
    )


def require_number(option: str, value: float | None, *, allow_zero: bool = False) -> None:
    """Check the value of an option; None passes.

    Raises:
        UsageError: the value is negative, infinite or NaN, or it is 0 and ``allow_zero`` is false.
    """
    if value is not None and not (isfinite(value) and (value > 0 or (allow_zero and value == 0))):
        raise UsageError(f"Invalid {option} {value:g}", why=f"it must be {'0 or more' if allow_zero else 'above 0'}")


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed step of one model, grouped by turn."""

    turns: tuple[tuple[float, ...], ...]

    @cached_property
    def steps(self) -> tuple[float, ...]:
        return tuple(chain.from_iterable(self.turns))

    @property
    def median_s(self) -> float:
        return median(self.steps)

    @property
    def mean_s(self) -> float:
        return fmean(self.steps)

    @property
    def p90_s(self) -> float:
        """The ninetieth percentile, linearly interpolated between two steps."""
        ordered = sorted(self.steps)
        position = 0.9 * (len(ordered) - 1)
        lower = ordered[int(position)]
        upper = ordered[min(int(position) + 1, len(ordered) - 1)]
        return lower + (position - int(position)) * (upper - lower)

    @property
    def cv(self) -> float:
        """Coefficient of variation: standard deviation of the steps divided by their mean."""
        return pstdev(self.steps) / self.mean_s if self.mean_s else 0.0

    @property
    def is_unstable(self) -> bool:
        return self.cv > UNSTABLE_CV

    def average_s(self, average: Average) -> float:
        return self.median_s if average == "median" else self.mean_s

    def medians_s(self) -> tuple[float, ...]:
        """The median step of each turn."""
        return tuple(median(turn) for turn in self.turns)


def measure(
    step: Step, duration_s: float, *, warmup_s: float = 0, untimed: int = 0, clock: Clock = time.perf_counter
) -> Timing:
    """Time one turn: repeat the step until ``duration_s`` seconds are timed, at least once.

    Args:
        warmup_s: seconds during which untimed steps are run first.
        untimed: number of untimed steps after the warm-up.
    """
    start = clock()
    while clock() - start < warmup_s:
        step()
    for _ in range(untimed):
        step()
    seconds: list[float] = []
    timed_s = 0.0
    while not seconds or timed_s < duration_s:
        before = clock()
        step()
        seconds.append(clock() - before)
        timed_s += seconds[-1]
    return Timing((tuple(seconds),))


def interleave(
    steps: Mapping[str, Step],
    protocol: Protocol,
    *,
    clock: Clock = time.perf_counter,
    on_turn: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Warm up all models, then time them in interleaved rounds.

    Args:
        steps: the step of each model, by its name.
        clock: returns seconds, such as wall time or the CPU time of child processes.
        on_turn: called before each turn with a text for the progress bar.
    """
    for name, step in steps.items():
        on_turn(f"{name}: warm-up")
        measure(step, 0, warmup_s=protocol.warmup_s, clock=clock)
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    turn_s = protocol.duration_s / protocol.rounds
    for number in range(1, protocol.rounds + 1):
        for name, step in steps.items():
            on_turn(f"{name}: round {number} of {protocol.rounds}")
            turns[name].extend(measure(step, turn_s, untimed=protocol.untimed, clock=clock).turns)
    return {name: Timing(tuple(model_turns)) for name, model_turns in turns.items()}
