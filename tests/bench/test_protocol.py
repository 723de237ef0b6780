from collections.abc import Callable

import pytest

from levit_cli.bench.protocol import PROTOCOLS, Protocol, Timing, interleave, make_protocol, measure
from levit_cli.errors import UsageError


class FakeTime:
    """A clock that advances only when a step runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float) -> Callable[[], None]:
        """Return a step whose calls take these seconds, one after the other; the last is repeated."""
        remaining = list(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return run


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def test_steps_are_repeated_until_the_duration_is_reached(time: FakeTime) -> None:
    assert measure(time.step("a", 0.25), 1.0, clock=time.clock).turns == ((0.25,) * 4,)


def test_at_least_one_step_is_timed(time: FakeTime) -> None:
    assert measure(time.step("a", 7.0), 0.1, clock=time.clock).steps == (7.0,)


def test_warm_up_and_untimed_steps_are_not_timed(time: FakeTime) -> None:
    timing = measure(time.step("a", 5.0, 1.0, 1.0, 0.5), 1.0, warmup_s=6.0, untimed=1, clock=time.clock)
    assert timing.steps == (0.5, 0.5)
    assert len(time.log) == 5


def test_models_are_interleaved_and_each_turn_starts_with_an_untimed_step(time: FakeTime) -> None:
    protocol = Protocol("quick", warmup_s=0, duration_s=2.0, rounds=2, average="median")
    texts: list[str] = []
    steps = {"a": time.step("a", 9.0, 9.0, 1.0), "b": time.step("b", 1.0)}
    timings = interleave(steps, protocol, clock=time.clock, on_turn=texts.append)
    assert "".join(time.log) == "ab" + "aabb" + "aabb"  # warm-up, then two rounds of an untimed and a timed step
    assert timings["a"].turns == ((1.0,), (1.0,))
    assert texts[-1] == "b: round 2 of 2"


def test_median_mean_percentile_and_spread_of_a_timing() -> None:
    timing = Timing(((1.0, 2.0, 3.0), (4.0, 5.0)))
    assert (timing.median_s, timing.mean_s) == (3.0, 3.0)
    assert timing.p90_s == pytest.approx(4.6)
    assert timing.cv == pytest.approx(2**0.5 / 3)
    assert timing.medians_s() == (2.0, 4.5)
    assert timing.is_unstable
    assert not Timing(((1.0, 1.05, 0.95),)).is_unstable
    assert Timing(((1.0,),)).p90_s == 1.0


def test_the_paper_protocol_has_the_authors_times_and_average() -> None:
    paper = PROTOCOLS["paper"]
    assert (paper.warmup_s, paper.duration_s, paper.average) == (10, 60, "mean")
    assert Timing(((1.0, 1.0, 4.0),)).average_s(paper.average) == 2.0
    assert Timing(((1.0, 1.0, 4.0),)).average_s(PROTOCOLS["quick"].average) == 1.0


def test_named_times_replace_those_of_the_protocol() -> None:
    protocol = make_protocol("paper", duration_s=5)
    assert (protocol.warmup_s, protocol.duration_s) == (10, 5)
    assert make_protocol("quick", warmup_s=0).warmup_s == 0
    assert make_protocol("quick") == PROTOCOLS["quick"]


@pytest.mark.parametrize(
    ("duration_s", "warmup_s", "message"),
    [
        (0, None, "Invalid --duration 0 · it must be above 0"),
        (-1, None, "--duration -1"),
        (float("nan"), None, "--duration nan"),
        (float("inf"), None, "--duration inf"),
        (None, -0.5, "--warmup -0.5 · it must be 0 or more"),
    ],
)
def test_an_impossible_time_is_a_usage_error(duration_s: float | None, warmup_s: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_protocol("quick", duration_s=duration_s, warmup_s=warmup_s)
