"""The gate: paired interval, figures and limits."""

from itertools import product
from math import comb

import numpy as np
import pytest

from levit_cli.checkpoints.quantized import Gate
from levit_cli.errors import GateError
from levit_cli.quantize.gate import Compared, drop_points, paired_interval, require_accurate


def coverage(images: int, lose: float, gain: float) -> float:
    """Return the exact probability that the interval contains the true drop, over all outcomes."""
    total = 0.0
    for lost, gained in product(range(images + 1), repeat=2):
        if lost + gained <= images:
            ways = comb(images, lost) * comb(images - lost, gained)
            low, high = paired_interval(lost, gained, images)
            probability = ways * lose**lost * gain**gained * (1 - lose - gain) ** (images - lost - gained)
            total += probability * (low <= lose - gain <= high)
    return total


@pytest.mark.parametrize(("lose", "gain"), [(0.05, 0.05), (0.1, 0.02), (0.02, 0.0), (0.3, 0.3), (0.01, 0.04)])
def test_the_interval_contains_the_true_drop_in_at_least_95_of_100_samples(lose: float, gain: float) -> None:
    assert coverage(60, lose, gain) > 0.94  # the coverage of discrete counts varies around 0.95


def test_the_interval_is_that_of_agresti_and_min() -> None:
    # 2 images on which only one, and 5 on which only the other is right, of 98: with the pseudo-images 3/100
    low, high = paired_interval(5, 2, 98)
    assert (low + high) / 2 == pytest.approx(0.03)
    assert high - low == pytest.approx(2 * 1.959964 * np.sqrt(8 - 9 / 100) / 100, rel=1e-6)
    assert paired_interval(2, 5, 98) == pytest.approx((-high, -low))


def test_without_any_difference_the_interval_still_has_a_width() -> None:
    low, high = paired_interval(0, 0, 5000)
    assert -0.001 < low < 0 < high < 0.001


def test_the_figures_are_those_of_the_counts() -> None:
    targets = np.array([0, 1, 2, 0])
    before, after = np.array([0, 1, 2, 1]), np.array([0, 1, 0, 2])
    gate = Compared(before, after, targets, unreadable=3).gate()
    assert (gate.images, gate.unreadable, gate.agreement) == (4, 3, 0.5)
    assert (gate.top1_before, gate.top1_after) == (0.75, 0.5)
    assert drop_points(gate) == pytest.approx(25)
    assert gate.drop_interval == pytest.approx(paired_interval(1, 0, 4))


def test_without_classes_there_is_only_the_agreement() -> None:
    gate = Compared(np.array([0, 1]), np.array([0, 1]), None, 0).gate()
    assert gate == Gate(2, 0, 1.0)
    assert drop_points(gate) is None


@pytest.mark.parametrize(
    ("gate", "max_drop", "words"),
    [
        (Gate(1000, 0, 0.99, 0.9, 0.89, (0.0, 0.02)), 1.0, None),  # exactly the limit
        (Gate(1000, 0, 0.99, 0.9, 0.889, (0.0, 0.02)), 1.0, "top-1 drops by 1.10 points, and --max-drop allows 1"),
        (Gate(1000, 0, 0.99, 0.9, 0.9, (0.0, 0.0)), 0.0, None),
        (Gate(1000, 0, 0.99, 0.9, 0.899, (0.0, 0.0)), 0.0, "--max-drop allows 0"),
        (Gate(1000, 0, 0.5, 0.5, 0.6, (-0.2, 0.0)), 0.0, None),  # more accurate
        (Gate(1000, 0, 0.97), 1.0, None),
        (Gate(1000, 0, 0.969), 50.0, "same on 96.9 % of the images, and 97 % are required"),
    ],
)
def test_an_inaccurate_model_is_refused(gate: Gate, max_drop: float, words: str | None) -> None:
    if words is None:
        require_accurate(gate, max_drop, "m")
        return
    with pytest.raises(GateError, match=words) as refused:
        require_accurate(gate, max_drop, "m")
    assert refused.value.exit_code == 1
    assert "nothing was written" in str(refused.value)
