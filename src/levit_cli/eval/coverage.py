"""Abstaining: how many images a threshold accepts, how accurate they are, and which threshold reaches a target.

A prediction is accepted if the probability of its class is at least the threshold. The lower the threshold, the more
images are accepted (coverage) and the less accurate they are.

The target is reached by a threshold whose accuracy on accepted images has a lower bound of at least the target. A bound
that holds for one threshold does not hold for the best of many: the search prefers thresholds whose accuracy happens to
be overestimated. Therefore only ``CANDIDATES`` thresholds are tried, which depend on the probabilities but not on the
true classes, and the bounds of all of them hold together with 99 % (Bonferroni). It is not 95 %, because the accuracy
on other images varies too: with 99 %, the threshold of one random half of a data set meets the target on the other half
in at least 95 % of the draws in which one is found. ``benchmarks/abstaining.py`` measures this.
"""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from levit_cli.eval.results import AccuracyTarget, CoveragePoint, Proportion
from levit_cli.predict.records import PROB_DIGITS

CANDIDATES = 20  # thresholds that accept 5 %, 10 %, … 100 % of the images
JOINT_CONFIDENCE = 0.99  # with which the bounds of all candidates hold
CANDIDATE_TAIL = (1 - JOINT_CONFIDENCE) / CANDIDATES  # probability that the bound of one candidate does not hold
FIXED_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
CURVE_POINTS = 100

Values = NDArray[np.float64]


class AcceptedImages:
    """The images that each threshold accepts.

    Args:
        confidences: (N,) probability of the predicted class, N at least 1.
        correct: (N,) whether each prediction is correct.
    """

    def __init__(self, confidences: Values, correct: NDArray[np.bool_]) -> None:
        self._order: NDArray[np.intp] = np.argsort(-confidences, kind="stable")
        self._confidences: Values = confidences[self._order]
        self._correct = correct

    @cached_property
    def _num_correct(self) -> NDArray[np.int64]:
        """Number of correct ones among the images of highest confidence: (N + 1,), starting with 0 for no image."""
        return np.concatenate([[0], np.cumsum(self._correct[self._order])]).astype(np.int64)

    def at(self, threshold: float) -> CoveragePoint:
        """Return the effect of a threshold."""
        accepted = int(np.searchsorted(-self._confidences, -threshold, side="right"))
        images = len(self._confidences)
        return CoveragePoint(threshold, Proportion(int(self._num_correct[accepted]), accepted), images)

    def accepting(self, share: float) -> CoveragePoint:
        """Return the effect of the threshold that accepts this share of the images, or more if probabilities are equal.

        The threshold is rounded down to as many digits as the records of ``levit predict`` have.
        """
        last = math.ceil(share * len(self._confidences)) - 1
        scale = 10**PROB_DIGITS
        return self.at(math.floor(float(self._confidences[max(last, 0)]) * scale) / scale)

    def curve(self, num_points: int = CURVE_POINTS) -> tuple[CoveragePoint, ...]:
        """Return points from few to all images."""
        points = {point.accepted.total: point for point in map(self.accepting, _shares(num_points))}
        return tuple(points.values())

    def find_threshold(self, accuracy: float) -> AccuracyTarget:
        """Find the smallest candidate whose accuracy on accepted images has a lower bound of at least ``accuracy``."""
        for share in reversed(_shares(CANDIDATES)):
            point = self.accepting(share)
            bound = point.accepted.interval_at(CANDIDATE_TAIL)[0]
            if point.threshold > 0 and bound >= accuracy:
                return AccuracyTarget(accuracy, point, bound)
        return AccuracyTarget(accuracy, None, None)


def _shares(count: int) -> list[float]:
    return [number / count for number in range(1, count + 1)]
