"""``/predict`` and ``/embed``: one image in the body, or several in a multipart body, and their records."""

from http import HTTPStatus

import numpy as np

from levit_cli.data.input import STDIN, Input
from levit_cli.embed.records import EmbeddingLines
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Embedding, Prediction, normalized, rank
from levit_cli.predict.records import json_record
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
        predictions = [
            prediction_of(item.path, outcome, model, top_k) for item, outcome in zip(items, outcomes, strict=True)
        ]
        records = [json_record(prediction, model.checkpoint.labels) for prediction in predictions]
        return json_response(records) if is_form else json_response(records[0], _status(predictions[0].error))

    async def embed(self, request: Request) -> Response:
        """Return the feature vectors of the images of a request."""
        normalizes = _flag(request.query, "normalize")
        items, is_form = images_of(request)
        model, outcomes = await self._service.outcomes(items, "features")
        format = EmbeddingLines(model.checkpoint.config.hidden_sizes[-1], "float32")
        embeddings = [
            _embedding_of(item.path, outcome, normalizes=normalizes)
            for item, outcome in zip(items, outcomes, strict=True)
        ]
        lines = [format.encode(embedding) for embedding in embeddings]
        if is_form:
            return Response(HTTPStatus.OK, b"[" + b", ".join(line[:-1] for line in lines) + b"]\n")
        return Response(_status(embeddings[0].error), lines[0])


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
    return rank(path, outcome, top_k=top_k, temperature=model.checkpoint.temperature, min_prob=model.min_prob)


def _flag(query: dict[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0", ""):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{name} is not true or false")
    return text in ("true", "1", "")


def _embedding_of(path: str, outcome: Outcome, *, normalizes: bool) -> Embedding:
    if isinstance(outcome, InputError):
        return Embedding(path, error=outcome)
    if not np.isfinite(outcome).all():
        return Embedding(path, error=InputError("non_finite", "the features contain NaN or infinity"))
    return Embedding(path, normalized(outcome) if normalizes else outcome)


def _status(error: InputError | None) -> HTTPStatus:
    if error is None:
        return HTTPStatus.OK
    is_no_image = error.kind in NO_IMAGE
    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE if is_no_image else HTTPStatus.UNPROCESSABLE_ENTITY
