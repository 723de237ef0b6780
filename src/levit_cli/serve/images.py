"""``/predict`` and ``/embed``: one image in the body, or several in a multipart body, and their records."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from levit_cli.data.input import STDIN, Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Prediction, rank
from levit_cli.predict.records import json_record, path_fields
from levit_cli.serve.messages import HttpError, Request, Response, json_response
from levit_cli.serve.model import ServedModel
from levit_cli.serve.multipart import split_parts
from levit_cli.serve.scheduler import Outcome
from levit_cli.serve.service import Service

DEFAULT_TOP_K = 5
FORM = "multipart/form-data"
NO_IMAGE = ("not_an_image", "format_not_allowed")  # kinds of errors that are answered with 415


class ImageRoutes:
    """The handlers of the routes that take images."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request) -> Response:
        """Classify the images of a request."""
        top_k = top_k_of(request.query)
        items, is_form = images_of(request)
        model, outcomes = await self._service.outcomes(items, "logits")
        records = [
            json_record(prediction_of(item.path, outcome, model, top_k), model.checkpoint.labels)
            for item, outcome in zip(items, outcomes, strict=True)
        ]
        return _answer(records, is_form=is_form)

    async def embed(self, request: Request) -> Response:
        """Return the feature vectors of the images of a request."""
        normalizes = _flag(request.query, "normalize")
        items, is_form = images_of(request)
        _, outcomes = await self._service.outcomes(items, "features")
        records = [
            _vector_record(item.path, outcome, normalizes=normalizes)
            for item, outcome in zip(items, outcomes, strict=True)
        ]
        return _answer(records, is_form=is_form)


def images_of(request: Request) -> tuple[list[Input], bool]:
    """Return the images of a request, and whether it is a form.

    Raises:
        HttpError: the form is malformed or empty.
    """
    if request.content_type != FORM:
        return [Input(STDIN, content=request.body)], False
    parts = split_parts(request.body, request.headers["content-type"])
    request.body = b""
    if not parts:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the form holds no file")
    return [Input(part.name, content=part.content) for part in parts], True


def top_k_of(query: dict[str, str]) -> int:
    """Return the number of classes per image.

    Raises:
        HttpError: it is no number that is at least 1.
    """
    text = query.get("top_k", str(DEFAULT_TOP_K))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise HttpError(HTTPStatus.BAD_REQUEST, "top_k is not a number that is at least 1")
    return int(text)


def prediction_of(path: str, outcome: Outcome, model: ServedModel, top_k: int) -> Prediction:
    """Return the prediction of an image from its logits or its error, as ``levit predict`` does."""
    if isinstance(outcome, InputError):
        return Prediction(path, error=outcome)
    return rank(path, outcome, top_k=top_k, temperature=model.checkpoint.temperature)


def _flag(query: dict[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0", ""):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{name} is not true or false")
    return text in ("true", "1", "")


def _vector_record(path: str, outcome: Outcome, *, normalizes: bool) -> dict[str, Any]:
    if not isinstance(outcome, InputError) and not np.isfinite(outcome).all():
        outcome = InputError("non_finite", "the features contain NaN or infinity")
    if isinstance(outcome, InputError):
        return {**path_fields(path), "status": "error", "error": {"kind": outcome.kind, "message": outcome.message}}
    length = float(np.linalg.norm(outcome)) if normalizes else 1.0
    vector = outcome / np.float32(length) if length else outcome
    return {**path_fields(path), "status": "ok", "vector": [float(f"{value:.9g}") for value in vector.tolist()]}


def _answer(records: Sequence[dict[str, Any]], *, is_form: bool) -> Response:
    if is_form:
        return json_response(records)
    (record,) = records
    return json_response(record, _status(record))


def _status(record: dict[str, Any]) -> HTTPStatus:
    if record["status"] == "ok":
        return HTTPStatus.OK
    is_no_image = record["error"]["kind"] in NO_IMAGE
    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE if is_no_image else HTTPStatus.UNPROCESSABLE_ENTITY
