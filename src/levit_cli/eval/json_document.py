"""Build the JSON output of ``levit eval``. Its keys are stable; an undefined value is null, never NaN."""

import math
from dataclasses import asdict
from typing import Any

from levit_cli.data.labels import Labels
from levit_cli.eval.coverage import CANDIDATES, JOINT_CONFIDENCE
from levit_cli.eval.evaluate import Evaluated
from levit_cli.eval.results import (
    AccuracyTarget,
    Calibration,
    ClassScore,
    ConfidentError,
    Coverage,
    CoveragePoint,
    Proportion,
    Summary,
)
from levit_cli.predict.records import json_record, path_fields
from levit_cli.predict.run_description import RunDescription

SCHEMA_VERSION = 1
DIGITS = 6


def document(evaluated: Evaluated, summary: Summary, description: RunDescription) -> dict[str, Any]:
    """Return the results as a JSON-compatible dict.

    Args:
        description: the model, preprocessing and engine that the results depend on.
    """
    labels = evaluated.labels
    classes = summary.confusion_classes
    return {
        "schema_version": SCHEMA_VERSION,
        "meta": description.as_json(),
        "data": {
            **path_fields(str(evaluated.folders.root)),
            "classes": len(evaluated.folders.classes),
            "images": len(evaluated.folders.samples),
            "readable": len(evaluated.paths),
            "failed": len(evaluated.failures),
        },
        "top1": _proportion(summary.top1),
        "top5": _proportion(summary.top5) if summary.top5 else None,
        "balanced_accuracy": _rounded(summary.balanced_accuracy),
        "macro_f1": _rounded(summary.macro_f1),
        "calibration": _calibration(summary.calibration),
        "calibration_fitted": _calibration(summary.fitted),
        "coverage": _coverage(summary.coverage),
        "classes": [_score(score, labels) for score in summary.scores],
        "confusion": {
            "classes": [_class(index, labels) for index in classes],
            "matrix": summary.confusion[classes][:, classes].tolist(),
        },
        "mistakes": [_confident_error(error, labels) for error in summary.confident_errors],
        "failures": [json_record(failure, labels) for failure in evaluated.failures],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, DIGITS)


def _proportion(proportion: Proportion) -> dict[str, Any]:
    low, high = proportion.interval
    return {
        "value": _rounded(proportion.value),
        "low": _rounded(low),
        "high": _rounded(high),
        "correct": proportion.correct,
        "total": proportion.total,
    }


def _calibration(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "temperature": _rounded(calibration.temperature),
        "error": _rounded(calibration.error),
        "confidence": _rounded(calibration.confidence),
        "log_loss": _rounded(calibration.log_loss),
        "bins": [
            {name: _rounded(value) if isinstance(value, float) else value for name, value in asdict(each).items()}
            for each in calibration.bins
        ],
    }


def _coverage(coverage: Coverage | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {
        "temperature": _rounded(coverage.temperature),
        "thresholds": [_point(point) for point in coverage.thresholds],
        "curve": [_point(point) for point in coverage.curve],
        "stored": _point(coverage.stored) if coverage.stored else None,
        "target": _target(coverage.target) if coverage.target else None,
    }


def _point(point: CoveragePoint) -> dict[str, Any]:
    low, high = point.accepted.interval
    return {
        "threshold": point.threshold,
        "coverage": _rounded(point.coverage),
        "accepted": point.accepted.total,
        "correct": point.accepted.correct,
        "accuracy": _rounded(point.accepted.value),
        "low": _rounded(low),
        "high": _rounded(high),
    }


def _target(target: AccuracyTarget) -> dict[str, Any]:
    return {
        "accuracy": target.accuracy,
        "candidates": CANDIDATES,
        "confidence": JOINT_CONFIDENCE,
        "lower_bound": _rounded(target.lower_bound),
        "chosen": _point(target.chosen) if target.chosen else None,
    }


def _class(index: int, labels: Labels) -> dict[str, Any]:
    return {"index": index, **({"wnid": labels.wnids[index]} if labels.wnids else {}), "label": labels.names[index]}


def _score(score: ClassScore, labels: Labels) -> dict[str, Any]:
    folder = path_fields(score.folder)
    return {
        **_class(score.index, labels),
        **{name.replace("path", "folder"): value for name, value in folder.items()},
        "images": score.images,
        "predicted": score.predicted,
        "correct": score.correct,
        "precision": _rounded(score.precision),
        "recall": _rounded(score.recall),
        "f1": _rounded(score.f1),
    }


def _confident_error(error: ConfidentError, labels: Labels) -> dict[str, Any]:
    return {
        **path_fields(error.path),
        "true": _class(error.true, labels),
        "predicted": _class(error.predicted, labels),
        "prob": _rounded(error.prob),
    }
