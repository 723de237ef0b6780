"""Class folders are classified with the pipeline of ``predict``, and the metrics equal those computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from levit_cli.checkpoints import Checkpoint, load
from levit_cli.data.image_folder import class_folders
from levit_cli.data.inputs import Input
from levit_cli.data.labels import Labels, numbered
from levit_cli.engines import EngineSpec, make_engine
from levit_cli.errors import InputError, RefusedError
from levit_cli.eval.evaluate import evaluate
from levit_cli.eval.results import ConfidentError, Confusion, Proportion
from levit_cli.eval.summarize import summarize
from levit_cli.predict.reader import Reader
from tests.eval.cases import evaluation, logits_of, random_logits
from tests.support.sample_images import sample_image, write_class_folders

SPEC = EngineSpec(precision="fp32")


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Checkpoint:
    return load(tiny_folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write nine images of three of the seven classes; each class folder is spelled in another way."""
    return write_class_folders(tmp_path / "data", ("Class_1", "class 5", "CLASS 3"), 3, "png")


# --- predictions


def test_each_image_has_its_own_logits_and_true_class(tiny: Checkpoint, data: Path) -> None:
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        sample_image(seed=100 + number).save(path)
    done = 0

    def on_image() -> None:
        nonlocal done
        done += 1

    evaluated = evaluate(tiny, class_folders(data), SPEC, batch_size=4, on_image=on_image)
    paths = [
        str(data / name / f"{number:03d}.png") for name in ("CLASS 3", "Class_1", "class 5") for number in range(3)
    ]
    assert list(evaluated.paths) == paths
    assert evaluated.targets.tolist() == [3, 3, 3, 1, 1, 1, 5, 5, 5]
    assert done == evaluated.stats.images == 9
    reader, engine = Reader(tiny.transform), make_engine(tiny, SPEC)
    expected = np.stack([engine(reader(Input(path))[None])[0] for path in paths])
    assert evaluated.logits == pytest.approx(expected, abs=1e-4)
    assert evaluated.ranked.tolist() == np.argsort(-evaluated.logits, axis=1)[:, :5].tolist()
    assert len({tuple(row) for row in evaluated.logits.tolist()}) == 9


def damage_one_image_per_class(data: Path) -> dict[str, str]:
    """Damage one image of each class; return the expected error kinds by path."""
    empty, text, torn = (data / name / "001.png" for name in ("CLASS 3", "Class_1", "class 5"))
    torn.write_bytes(torn.read_bytes()[:100])
    empty.write_bytes(b"")
    text.write_bytes(b"hello")
    return {str(empty): "empty_file", str(text): "not_an_image", str(torn): "truncated"}


def test_unreadable_images_are_failures_and_do_not_count_in_the_metrics(tiny: Checkpoint, data: Path) -> None:
    expected = damage_one_image_per_class(data)
    evaluated = evaluate(tiny, class_folders(data), SPEC, batch_size=2)
    assert {failure.path: failure.error and failure.error.kind for failure in evaluated.failures} == expected
    assert evaluated.targets.tolist() == [3, 3, 1, 1, 5, 5]
    assert set(evaluated.paths).isdisjoint(expected)
    assert summarize(evaluated).top1.total == 6


def test_metrics_without_readable_images_are_undefined(tiny: Checkpoint, data: Path) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    summary = summarize(evaluate(tiny, class_folders(data), SPEC))
    assert summary.top1 == summary.top5 == Proportion(0, 0)
    assert math.isnan(summary.top1.value)
    assert summary.calibration is summary.fitted is None
    assert [score.recall for score in summary.scores] == [None] * 3


def test_temperature_of_the_model_changes_confidences_but_not_logits(tiny: Checkpoint, data: Path) -> None:
    plain, tempered = (
        evaluate(replace(tiny, temperature=temperature), class_folders(data), SPEC) for temperature in (1.0, 2.0)
    )
    assert tempered.logits == pytest.approx(plain.logits, abs=1e-4)
    assert (tempered.confidences < plain.confidences).all()
    assert (plain.temperature, tempered.temperature) == (1.0, 2.0)


def test_class_folders_that_match_no_label_are_refused(tiny: Checkpoint, data: Path) -> None:
    (data / "class 5").rename(data / "zebra")
    with pytest.raises(RefusedError, match=r"zebra.* 7 classes"):
        evaluate(tiny, class_folders(data), SPEC)


# --- metrics


HAND = logits_of(
    [0.70, 0.10, 0.05, 0.05, 0.05, 0.05],  # true class 0
    [0.20, 0.60, 0.05, 0.05, 0.05, 0.05],  # true class 0, predicted as 1
    [0.03, 0.90, 0.03, 0.02, 0.01, 0.01],  # true class 1
    [0.20, 0.50, 0.10, 0.10, 0.06, 0.04],  # true class 1
    [0.90, 0.02, 0.01, 0.02, 0.02, 0.03],  # true class 2, predicted as 0; 2 is ranked last
    [0.10, 0.10, 0.20, 0.50, 0.05, 0.05],  # true class 2, predicted as 3, which has no folder
)
TRUE = (0, 0, 1, 1, 2, 2)


def test_metrics_of_an_example_computed_by_hand() -> None:
    summary = summarize(evaluation(HAND, TRUE, folders=(0, 1, 2)))
    assert summary.top1 == Proportion(3, 6)
    assert summary.top5 == Proportion(5, 6)
    assert [(score.folder, score.images, score.predicted, score.correct) for score in summary.scores] == [
        ("a", 2, 2, 1),
        ("b", 2, 3, 2),
        ("c", 2, 0, 0),
    ]
    assert [score.recall for score in summary.scores] == [0.5, 1, 0]
    assert [score.precision for score in summary.scores] == [0.5, pytest.approx(2 / 3), None]
    assert [score.f1 for score in summary.scores] == [0.5, pytest.approx(4 / 5), 0]
    assert summary.balanced_accuracy == pytest.approx(0.5)
    assert summary.macro_f1 == pytest.approx(1.3 / 3)
    assert summary.confusion[:4, :4].tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert summary.confusions == [Confusion(0, 1, 1), Confusion(2, 0, 1), Confusion(2, 3, 1)]
    assert summary.confusion_classes == [0, 1, 2, 3]
    assert [(m.path, m.true, m.predicted, round(m.prob, 4)) for m in summary.confident_errors] == [
        ("data/c/4.jpg", 2, 0, 0.9),
        ("data/a/1.jpg", 0, 1, 0.6),
        ("data/c/5.jpg", 2, 3, 0.5),
    ]


def test_calibration_of_an_example_computed_by_hand() -> None:
    calibration = summarize(evaluation(HAND, TRUE)).calibration
    assert calibration is not None
    assert calibration.temperature == 1
    assert calibration.confidence == pytest.approx((0.7 + 0.6 + 0.9 + 0.5 + 0.9 + 0.5) / 6)
    assert calibration.log_loss == pytest.approx(-sum(map(math.log, (0.7, 0.2, 0.9, 0.5, 0.01, 0.2))) / 6)
    # one of the two at .9 and one of the two at .5 are correct; .6 is wrong; .7 is correct
    assert calibration.error == pytest.approx((2 * 0.4 + 2 * 0.0 + 0.6 + 0.3) / 6)
    assert [(slot.images, round(slot.confidence, 4), slot.accuracy) for slot in calibration.bins] == [
        (2, 0.5, 0.5),
        (1, 0.6, 0.0),
        (1, 0.7, 1.0),
        (2, 0.9, 0.5),
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibration_error_equals_that_of_the_bins(temperature: float) -> None:
    logits, targets = random_logits(400, 8)
    logits[0] *= 1000  # a confidence of exactly 1
    summary = summarize(evaluation(logits, targets, temperature=temperature))
    for calibration in (summary.calibration, summary.fitted):
        assert calibration is not None
        gaps = [slot.images * abs(slot.confidence - slot.accuracy) for slot in calibration.bins]
        assert calibration.error == pytest.approx(sum(gaps) / 400)
        assert all(slot.low <= slot.confidence < slot.high for slot in calibration.bins)
        assert sum(slot.images for slot in calibration.bins) == 400


def test_fitted_temperature_does_not_depend_on_the_temperature_of_the_model() -> None:
    logits, targets = random_logits(300, 6)
    first, second = (summarize(evaluation(logits, targets, temperature=value)) for value in (1.0, 4.0))
    assert first.fitted is not None
    assert first.fitted == second.fitted
    assert first.calibration is not None
    assert second.calibration is not None
    assert first.fitted.log_loss < first.calibration.log_loss < second.calibration.log_loss
    again = summarize(evaluation(logits, targets, temperature=first.fitted.temperature))
    assert again.calibration is not None
    assert again.calibration.error == pytest.approx(first.fitted.error)


def test_top5_is_undefined_for_five_classes() -> None:
    assert summarize(evaluation(*random_logits(20, 5))).top5 is None
    assert summarize(evaluation(*random_logits(20, 6))).top5 is not None


def test_most_confident_errors_come_first_and_are_limited_in_number() -> None:
    logits, targets = random_logits(300, 4)
    mistakes = summarize(evaluation(logits, targets)).confident_errors
    assert len(mistakes) == 24
    assert [mistake.prob for mistake in mistakes] == sorted((mistake.prob for mistake in mistakes), reverse=True)
    assert all(mistake.true != mistake.predicted for mistake in mistakes)
    tied = summarize(evaluation(logits_of([0.9, 0.1], [0.9, 0.1]), (1, 1))).confident_errors
    assert [mistake.path for mistake in tied] == ["data/b/0.jpg", "data/b/1.jpg"]
    assert replace(tied[0], prob=round(tied[0].prob, 5)) == ConfidentError("data/b/0.jpg", 1, 0, 0.9)


@pytest.mark.parametrize(("correct", "total"), [(8, 10), (0, 10), (10, 10), (50, 100), (4041, 5000), (1, 1)])
def test_interval_is_the_wilson_score_interval(correct: int, total: int) -> None:
    """At both ends of the interval, the observed proportion is 1.96 standard errors from the true proportion."""
    for end in (low_high := Proportion(correct, total).interval):
        assert (correct / total - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / total, abs=1e-8)
    assert 0 <= low_high[0] <= correct / total + 1e-12
    assert correct / total - 1e-12 <= low_high[1] <= 1
    assert low_high[0] < low_high[1]


def test_interval_computed_by_hand() -> None:
    # (0.8 + 3.8415 / 20 +- 1.96 * sqrt(0.16 / 10 + 3.8415 / 400)) / (1 + 3.8415 / 10)
    assert Proportion(8, 10).interval == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert Proportion(0, 0).interval == (0, 1)


def test_proportion_is_compared_exactly_with_a_threshold() -> None:
    assert Proportion(9, 10).value >= 0.9
    assert Proportion(899, 1000).value < 0.9


def test_model_with_one_class_is_refused(tiny: Checkpoint, data: Path) -> None:
    with pytest.raises(RefusedError, match="only one class"):
        evaluate(replace(tiny, labels=numbered(1)), class_folders(data), SPEC)


def test_summary_of_one_thousand_classes() -> None:
    labels = Labels(tuple(f"n{index}" for index in range(1000)))
    logits, targets = random_logits(50, 1000)
    failures = [(Path("data/n0/x.jpg"), InputError("truncated", "torn"))]
    summary = summarize(evaluation(logits, targets, labels=labels, failures=failures))
    assert summary.confusion.shape == (1000, 1000)
    assert len(summary.scores) == 1000
    assert sum(confusion.images for confusion in summary.confusions) == 50 - summary.top1.correct
