"""Coverage and accuracy of thresholds, and the search for a threshold with a target accuracy."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.abstaining import (
    ImageSet,
    calibrated,
    corrected,
    draw_halves,
    label_noise,
    one_bound,
    overconfident,
    predictions,
)
from numpy.typing import NDArray

from levit_cli.eval.coverage import CANDIDATE_TAIL, CANDIDATES, AcceptedImages
from levit_cli.eval.json_document import document
from levit_cli.eval.results import Proportion
from levit_cli.eval.summarize import summarize
from levit_cli.eval.table import as_table
from levit_cli.eval.wording import describe_target
from tests.eval.cases import RUN, evaluation, logits_of, random_logits
from tests.support.shared_data import shared

CONFIDENCES = np.array([0.9, 0.5, 0.8, 0.8, 0.3])
CORRECT = np.array([True, True, False, True, False])


def images(count: int, num_wrong: int) -> AcceptedImages:
    """Images of which the least probable ones are wrong."""
    correct: NDArray[np.bool_] = np.arange(count) < count - num_wrong
    return AcceptedImages(np.linspace(0.99, 0.2, count), correct)


@pytest.mark.parametrize(
    ("threshold", "accepted", "correct"),
    [(0.0, 5, 3), (0.3, 5, 3), (0.31, 4, 3), (0.8, 3, 2), (0.81, 1, 1), (0.91, 0, 0)],
)
def test_a_threshold_accepts_the_images_whose_probability_is_at_least_as_high(
    threshold: float, accepted: int, correct: int
) -> None:
    point = AcceptedImages(CONFIDENCES, CORRECT).at(threshold)
    assert (point.accepted, point.coverage) == (Proportion(correct, accepted), accepted / 5)


def test_the_threshold_of_a_share_accepts_all_images_of_the_same_probability_and_has_six_digits() -> None:
    accepted = AcceptedImages(CONFIDENCES + 1e-9 / 3, CORRECT)
    point = accepted.accepting(0.4)
    assert (point.threshold, point.accepted.total) == (0.8, 3)
    assert accepted.at(float(f"{point.threshold:.6f}")) == point


def test_the_interval_at_a_tail_is_wilsons() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for correct, total, tail in ((90, 100, 0.025), (299, 300, 0.0025), (5, 5, 0.1)):
        expected = binomtest(correct, total).proportion_ci(1 - 2 * tail, method="wilson")
        assert Proportion(correct, total).interval_at(tail) == pytest.approx((expected.low, expected.high))


def test_the_smallest_candidate_whose_corrected_bound_reaches_the_target_is_found() -> None:
    accepted = images(1000, 100)
    target = accepted.find_threshold(0.95)
    assert target.chosen is not None
    points = [accepted.accepting(number / CANDIDATES).accepted for number in range(1, CANDIDATES + 1)]
    reaching = [point for point in points if point.interval_at(CANDIDATE_TAIL)[0] >= 0.95]
    assert target.chosen.accepted == reaching[-1] == Proportion(900, 900)  # with 950 images, there are 50 errors
    assert target.lower_bound == reaching[-1].interval_at(CANDIDATE_TAIL)[0]


def test_with_few_images_or_many_errors_no_threshold_is_found_and_the_text_says_so() -> None:
    assert images(100, 0).find_threshold(0.95).chosen is None
    target = AcceptedImages(np.full(500, 0.9), np.arange(500) % 2 == 0).find_threshold(0.9)
    assert (target.chosen, target.lower_bound) == (None, None)
    assert describe_target(target).startswith("No threshold was found")


def test_a_threshold_that_accepts_all_images_can_be_found() -> None:
    target = images(400, 0).find_threshold(0.9)
    assert target.chosen is not None
    assert target.chosen.coverage == 1
    assert target.chosen.threshold == pytest.approx(0.2, abs=1e-6)


@pytest.mark.guarantee("target-accuracy")
@pytest.mark.parametrize("kind", [calibrated, label_noise])
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_the_threshold_of_one_half_meets_the_target_on_the_other_in_95_percent_of_the_draws(
    kind: Callable[[int, np.random.Generator], ImageSet], target: float
) -> None:
    outcome = draw_halves(kind(6000, np.random.default_rng(1)), target, corrected, 200)
    assert outcome.found >= 100
    assert outcome.share >= 0.95


def test_where_hardly_any_threshold_reaches_the_target_one_is_seldom_found() -> None:
    """The best thresholds of this model have an accuracy of 96 %, so that only a lucky half reaches 95 %."""
    outcome = draw_halves(overconfident(2000, np.random.default_rng(1)), 0.95, corrected, 200)
    assert (outcome.found - outcome.passed) / outcome.draws <= 0.05


def test_without_the_correction_the_target_is_missed_more_often_than_in_5_percent() -> None:
    outcomes = [draw_halves(calibrated(2000, np.random.default_rng(seed)), 0.95, one_bound, 20) for seed in range(4)]
    assert sum(each.found for each in outcomes) >= 60
    assert sum(each.passed for each in outcomes) / sum(each.found for each in outcomes) < 0.95


@pytest.mark.guarantee("target-accuracy")
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_the_rule_holds_on_real_images(target: float, cifar_predictions: ImageSet) -> None:
    outcome = draw_halves(cifar_predictions, target, corrected, 200)
    assert outcome.found >= 20
    assert outcome.share >= 0.95


@pytest.fixture(scope="module")
def cifar_predictions() -> ImageSet:
    """Those of the demo model on a fifth of the 5,000 test images of CIFAR-10."""
    return predictions("demo", shared("cifar10-val.tar"), every=5)


def test_the_document_and_the_table_show_the_stored_threshold_and_the_target() -> None:
    logits, targets = random_logits(600, 4)
    evaluated = replace(evaluation(8 * logits, targets), threshold=0.9)
    summary = summarize(evaluated, target_accuracy=0.8)
    coverage = document(evaluated, summary, RUN)["coverage"]
    correct = evaluated.ranked[:, 0] == evaluated.targets
    accepted = evaluated.confidences >= 0.9
    assert coverage["stored"]["accepted"] == accepted.sum()
    assert coverage["stored"]["correct"] == (accepted & correct).sum()
    assert coverage["target"]["lower_bound"] >= 0.8
    assert coverage["thresholds"][0]["accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    shares = [point["coverage"] for point in coverage["curve"]]
    assert shares == sorted(shares)
    table = " ".join(as_table(evaluated, summary, RUN, is_terminal=False).split())
    assert "Stored threshold 0.9:" in table
    found = coverage["target"]["chosen"]["threshold"]
    assert f"The smallest threshold that reaches an accuracy of 80.0 % with 99 % confidence is {found:g}:" in table


def test_with_a_new_temperature_thresholds_refer_to_its_probabilities_and_the_stored_one_is_void() -> None:
    logits, targets = random_logits(600, 4)
    evaluated = replace(evaluation(5 * logits, targets), threshold=0.9)
    summary = summarize(evaluated, target_accuracy=0.5, calibrates=True)
    assert summary.fitted is not None
    assert summary.coverage is not None
    assert summary.coverage.temperature == summary.fitted.temperature > 2
    assert summary.coverage.stored is None
    assert summary.coverage.thresholds[5].coverage < summarize(evaluated).coverage.thresholds[5].coverage  # type: ignore[union-attr]


def test_without_images_there_is_no_coverage() -> None:
    evaluated = evaluation(logits_of((0.5, 0.5))[:0], [])
    assert document(evaluated, summarize(evaluated, target_accuracy=0.9), RUN)["coverage"] is None
