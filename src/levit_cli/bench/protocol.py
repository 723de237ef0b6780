"""How speed is measured: rivals take turns in one run, and the time of every step is kept.

Each rival is warmed up first. Then they go round, A B C, A B C, …, so that what disturbs the machine for a while
disturbs them all; a turn begins with a step that does not count, since the caches still hold another rival's data. A
ratio of two rivals can therefore be taken, round by round, and its spread tells what it is worth.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean, median, pstdev
from typing import Literal

from levit_cli.choices import BenchProtocol

Step = Callable[[], object]
Clock = Callable[[], float]
Average = Literal["median", "mean"]
UNSTABLE_CV = 0.1


@dataclass(frozen=True)
class Protocol:
    """How long, and in how many rounds.

    Args:
        warmup_s: each rival runs for so long before the first round.
        duration_s: of timed steps, each rival, over all rounds.
        average: of the steps, from which a speed is computed.
        untimed: steps at the beginning of each turn that do not count.
    """

    name: BenchProtocol
    warmup_s: float
    duration_s: float
    rounds: int
    average: Average
    untimed: int = 1


PROTOCOLS: dict[BenchProtocol, Protocol] = {
    "quick": Protocol("quick", warmup_s=0.3, duration_s=2.5, rounds=5, average="median"),
    # the times, and the mean, of the authors' speed_test.py, which measures each network by itself
    "paper": Protocol("paper", warmup_s=10, duration_s=60, rounds=6, average="mean"),
}


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed step, turn by turn."""

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
        """The ninetieth percentile, between two steps where it falls there."""
        ordered = sorted(self.steps)
        place = 0.9 * (len(ordered) - 1)
        below = ordered[int(place)]
        above = ordered[min(int(place) + 1, len(ordered) - 1)]
        return below + (place - int(place)) * (above - below)

    @property
    def cv(self) -> float:
        """Coefficient of variation: the standard deviation of the steps in units of their mean."""
        return pstdev(self.steps) / self.mean_s if self.mean_s else 0.0

    @property
    def is_unstable(self) -> bool:
        return self.cv > UNSTABLE_CV

    def average_s(self, average: Average) -> float:
        return self.median_s if average == "median" else self.mean_s

    def medians_s(self) -> tuple[float, ...]:
        """One for each turn."""
        return tuple(median(turn) for turn in self.turns)


def measure(
    step: Step, duration_s: float, *, warmup_s: float = 0, untimed: int = 0, clock: Clock = time.perf_counter
) -> Timing:
    """One turn: steps until ``duration_s`` of them are timed, at least one.

    Args:
        warmup_s: steps run for so long first.
        untimed: as many steps run first.
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
    rivals: Mapping[str, Step],
    protocol: Protocol,
    *,
    clock: Clock = time.perf_counter,
    on_step: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Measure all rivals, interleaved.

    Args:
        on_step: called before each turn with its name.
    """
    for name, step in rivals.items():
        on_step(f"{name}: warming up")
        measure(step, 0, warmup_s=protocol.warmup_s, clock=clock)
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in rivals}
    share_s = protocol.duration_s / protocol.rounds
    for number in range(1, protocol.rounds + 1):
        for name, step in rivals.items():
            on_step(f"{name}: round {number} of {protocol.rounds}")
            turns[name].extend(measure(step, share_s, untimed=protocol.untimed, clock=clock).turns)
    return {name: Timing(tuple(found)) for name, found in turns.items()}
