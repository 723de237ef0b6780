"""The regression equals scikit-learn's on standardized features where it should, and chooses on other images."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from levit_cli.errors import RefusedError
from levit_cli.eval.metrics import fit_temperature
from levit_cli.probe.regression import (
    FOLDS,
    STRENGTHS,
    TRAINED_ONLY,
    Labeled,
    choose,
    components_of,
    fit,
    make_folds,
    standardization_of,
    weighted_log_loss,
)
from levit_cli.probe.results import measure

WIDTH = 12


def blobs(counts: tuple[int, ...] = (60, 40, 30), distance: float = 1.0, seed: int = 0) -> Labeled:
    """Features of Gaussian classes, in unlike units; the second view differs by noise."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(len(counts), WIDTH)) * distance
    targets = np.repeat(np.arange(len(counts)), counts)
    upright = centers[targets] + rng.normal(size=(len(targets), WIDTH))
    views = np.stack([upright, upright + 0.1 * rng.normal(size=upright.shape)], axis=1) * np.geomspace(0.01, 100, WIDTH)
    return Labeled(views.astype(np.float32), targets, len(counts))


def test_every_class_with_two_images_is_predicted_and_learned_in_each_fold() -> None:
    targets = np.repeat(np.arange(5), (1, 2, 3, 7, 50))
    folds = make_folds(targets, seed=3)
    assert [*folds[targets == 0]] == [TRAINED_ONLY]
    assert (folds[targets > 0] != TRAINED_ONLY).all()
    for fold in range(FOLDS):
        assert {*targets[folds != fold]} == set(range(5))
    counts = np.bincount(folds[targets == 4], minlength=FOLDS)
    assert [*counts] == [10] * FOLDS
    assert (make_folds(targets, seed=3) == folds).all()
    assert (make_folds(targets, seed=4) != folds).any()


def test_components_are_uncorrelated_with_the_root_of_their_standard_deviation() -> None:
    views = blobs().views[:, 0]
    standardized = standardization_of(views)(views)
    assert standardized.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert standardized.std(axis=0) == pytest.approx(1, abs=0.02)  # the batch norm adds a constant to the variance
    components = components_of(standardized)
    covariance = np.cov((standardized @ components).T, bias=True)
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(standardized.T, bias=True)))
    assert covariance == pytest.approx(np.diag(deviations), abs=1e-6)


def test_an_almost_unregularized_regression_equals_scikit_learns_on_standardized_features() -> None:
    labeled = blobs(distance=0.5)
    probe = fit(labeled, "none", 1e4)
    features, targets = labeled.views.reshape(-1, WIDTH), labeled.targets.repeat(2)
    standardized = probe.standardization(features)
    expected = LogisticRegression(C=1e4, max_iter=2000).fit(standardized, targets).predict_proba(standardized)
    logits = probe.logits(features).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert exponentials / exponentials.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=0.02)


def test_two_classes_give_two_logits() -> None:
    labeled = blobs((30, 20))
    probe = fit(labeled, "none", 0.1)
    assert probe.weight.shape == (2, WIDTH)
    assert probe.logits(labeled.views[:, 0]).sum(axis=1) == pytest.approx(0, abs=1e-4)
    predicted = probe.logits(labeled.views[:, 0]).argmax(axis=1)
    assert (predicted == labeled.targets).mean() > 0.9


def test_the_chosen_strength_has_the_smallest_log_loss_of_those_tried() -> None:
    choice = choose(blobs(distance=0.4), "none", 0)
    losses = {score.strength: score.log_loss for score in choice.scores}
    assert choice.strength == min(losses, key=losses.__getitem__)
    assert STRENGTHS[0] < choice.strength < STRENGTHS[-1]
    assert [*losses] == [*STRENGTHS[: len(losses)]]
    assert choice.images == 130


def test_cross_validation_predicts_no_image_that_it_was_fitted_to() -> None:
    """Labels that have nothing to do with the features cannot be predicted, although they can be learned by heart."""
    rng = np.random.default_rng(0)
    views = rng.normal(size=(60, 2, 200)).astype(np.float32)
    noise = Labeled(views, rng.permutation(np.arange(60) % 3), 3)
    choice = choose(noise, "none", 0)
    assert max(score.correct for score in choice.scores) < 35
    learned = fit(noise, "none", STRENGTHS[-1]).logits(views[:, 0]).argmax(axis=1)
    assert (learned == noise.targets).all()


def test_the_temperature_is_fitted_to_the_predictions_of_the_cross_validation() -> None:
    labeled = blobs(distance=0.5)
    choice = choose(labeled, "none", 0)
    on_training = fit_temperature(fit(labeled, "none", choice.strength).logits(labeled.views[:, 0]), labeled.targets)
    assert on_training is not None
    assert choice.temperature > on_training  # training images are predicted too well


def test_without_a_minimum_the_temperature_is_1() -> None:
    choice = choose(blobs(distance=50), "none", 0)
    assert choice.scores[-1].correct == 130
    assert choice.temperature == 1


def test_classes_of_one_image_are_fitted_without_cross_validation() -> None:
    labeled = blobs((1, 1, 1), distance=5)
    choice = choose(labeled, "none", 0)
    assert (choice.images, choice.scores) == (0, ())
    predicted = fit(labeled, "none", choice.strength).logits(labeled.views[:, 0]).argmax(axis=1)
    assert [*predicted] == [0, 1, 2]


def test_balanced_class_weights_raise_the_recall_of_the_small_class() -> None:
    labeled, others = blobs((200, 10), distance=0.25, seed=1), blobs((200, 200), distance=0.25, seed=1)
    recalls = {}
    for class_weights in ("none", "balanced"):
        assert np.isclose(labeled.weights(class_weights).mean(), 1)
        probe = fit(labeled, class_weights, 0.1)
        predicted = probe.logits(others.views[:, 0]).argmax(axis=1)
        recalls[class_weights] = (predicted[200:] == 1).mean()
    assert recalls["balanced"] > recalls["none"] + 0.2


def test_constant_and_repeated_features_get_finite_weights() -> None:
    labeled = blobs()
    views = np.concatenate([labeled.views, labeled.views[..., :3], np.full_like(labeled.views[..., :2], 7)], axis=-1)
    probe = fit(Labeled(views, labeled.targets, 3), "none", 1.0)
    assert np.isfinite(probe.weight).all()
    assert (probe.standardization.variance > 0).all()
    assert probe.weight[:, -2:] == pytest.approx(0, abs=1e-6)  # a constant feature says nothing about the class
    assert (probe.logits(views[:, 0]).argmax(axis=1) == labeled.targets).mean() > 0.8


def test_images_that_are_all_the_same_are_refused() -> None:
    same = Labeled(np.full((8, 2, WIDTH), 0.5, np.float32), np.arange(8) % 2, 2)
    with pytest.raises(RefusedError, match="The features of all images are the same"):
        choose(same, "none", 0)


def test_the_weighted_log_loss_is_a_weighted_mean() -> None:
    logits = np.array([[2, 0], [0, 0]], np.float32)
    losses = np.log(1 + np.exp(-2.0)), np.log(2)
    loss = weighted_log_loss(logits, np.array([0, 1]), np.array([3.0, 1.0]))
    assert loss == pytest.approx((3 * losses[0] + losses[1]) / 4)


def test_the_measured_accuracy_counts_classes_without_images_out() -> None:
    logits = np.array([[5, 0, 0], [5, 0, 0], [0, 5, 0], [5, 0, 0]], np.float32)
    measured = measure(logits, np.array([0, 0, 1, 1]), 1.0)
    assert (measured.top1.correct, measured.top1.total) == (3, 4)
    assert measured.balanced_accuracy == pytest.approx(0.75)
