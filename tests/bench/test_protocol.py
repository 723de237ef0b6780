from collections.abc import Callable

import pytest

from levit_cli.bench.protocol import PROTOCOLS, Protocol, Timing, interleave, measure


class FakeTime:
    """A clock that only goes on when a step is run."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float) -> Callable[[], None]:
        """A step that takes these seconds, in turn, and then the last of them again and again."""
        left = list(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def test_steps_run_until_enough_of_them_is_timed(time: FakeTime) -> None:
    assert measure(time.step("a", 0.25), 1.0, clock=time.clock).turns == ((0.25,) * 4,)


def test_one_step_is_timed_however_long_it_takes(time: FakeTime) -> None:
    assert measure(time.step("a", 7.0), 0.1, clock=time.clock).steps == (7.0,)


def test_what_warms_up_does_not_count(time: FakeTime) -> None:
    timing = measure(time.step("a", 5.0, 1.0, 1.0, 0.5), 1.0, warmup_s=6.0, untimed=1, clock=time.clock)
    assert timing.steps == (0.5, 0.5)
    assert len(time.log) == 5


def test_rivals_interleave_and_each_turn_begins_with_a_step_that_does_not_count(time: FakeTime) -> None:
    protocol = Protocol("quick", warmup_s=0, duration_s=2.0, rounds=2, average="median")
    said: list[str] = []
    rivals = {"a": time.step("a", 9.0, 9.0, 1.0), "b": time.step("b", 1.0)}
    timings = interleave(rivals, protocol, clock=time.clock, on_step=said.append)
    assert "".join(time.log) == "ab" + "aabb" + "aabb"  # warm-up; then two rounds, an untimed step and a timed one each
    assert timings["a"].turns == ((1.0,), (1.0,))
    assert said[-1] == "b: round 2 of 2"


def test_a_timing_knows_its_spread() -> None:
    timing = Timing(((1.0, 2.0, 3.0), (4.0, 5.0)))
    assert (timing.median_s, timing.mean_s) == (3.0, 3.0)
    assert timing.p90_s == pytest.approx(4.6)
    assert timing.cv == pytest.approx(2**0.5 / 3)
    assert timing.medians_s() == (2.0, 4.5)
    assert timing.is_unstable
    assert not Timing(((1.0, 1.05, 0.95),)).is_unstable
    assert Timing(((1.0,),)).p90_s == 1.0


def test_the_paper_protocol_has_the_authors_times_and_their_mean() -> None:
    paper = PROTOCOLS["paper"]
    assert (paper.warmup_s, paper.duration_s, paper.average) == (10, 60, "mean")
    assert Timing(((1.0, 1.0, 4.0),)).average_s(paper.average) == 2.0
    assert Timing(((1.0, 1.0, 4.0),)).average_s(PROTOCOLS["quick"].average) == 1.0
