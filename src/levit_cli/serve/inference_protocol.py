"""The Open Inference Protocol (version 2), as Triton, KServe and MLServer speak it over HTTP.

The input ``image`` holds encoded images, BYTES [N]: in JSON as Base64, or as raw bytes with the binary extension, which
``tritonclient`` uses. The outputs ``index`` (INT64), ``label`` (BYTES) and ``prob`` (FP32) are [N, top_k].
"""

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from levit_cli import __version__
from levit_cli.data.input import STDIN, Input
from levit_cli.errors import InputError
from levit_cli.predict.pipeline import Ranked
from levit_cli.serve.images import DEFAULT_TOP_K, prediction_of
from levit_cli.serve.messages import HttpError, Request, Response, json_response
from levit_cli.serve.model import ServedModel
from levit_cli.serve.service import Service

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
DATATYPES = {"index": "INT64", "label": "BYTES", "prob": "FP32"}
MAX_IMAGES = 1000


class InferenceRoutes:
    """The handlers of the protocol's routes.

    Args:
        name: the name of the model in the routes.
    """

    def __init__(self, service: Service, name: str) -> None:
        self._service, self.name = service, name

    async def server(self, _: Request) -> Response:
        """The server's metadata."""
        return json_response({"name": "levit", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        self._service.require_ready()
        return json_response({"ready": True})

    async def model_ready(self, _: Request) -> Response:
        self._service.require_ready()
        return json_response({"name": self.name, "ready": True})

    async def model(self, _: Request) -> Response:
        """The model's metadata: its inputs and outputs."""
        self._service.require_ready()
        outputs = [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, kind in DATATYPES.items()]
        return json_response(
            {
                "name": self.name,
                "versions": ["1"],
                "platform": "levit",
                "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
                "outputs": outputs,
            }
        )

    async def infer(self, request: Request) -> Response:
        """Classify the images of a request."""
        header, binary = _split(request)
        images = _images(header, binary)
        del binary
        request.body = b""
        top_k, outputs = _top_k(header), _requested_outputs(header)
        model, outcomes = await self._service.outcomes([Input(STDIN, content=image) for image in images], "logits")
        rows = []
        for position, outcome in enumerate(outcomes):
            prediction = prediction_of(STDIN, outcome, model, top_k)
            if prediction.error is not None:
                raise _bad_image(position, prediction.error)
            rows.append(prediction.top)
        return _response(header, self.name, _tensors(rows, model), outputs)


def _bad(reason: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, reason)


def _bad_image(position: int, error: InputError) -> HttpError:
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, f"image {position}: {error.kind}: {error.message}")


def _split(request: Request) -> tuple[dict[str, Any], bytes]:
    """Return the JSON header of a request, and the binary data after it.

    Raises:
        HttpError: it is not a JSON object.
    """
    text = request.headers.get(HEADER_LENGTH.lower())
    if text is not None and not (text.isascii() and text.isdigit() and int(text[:18]) <= len(request.body)):
        raise _bad(f"{HEADER_LENGTH} is not a length within the body")
    length = len(request.body) if text is None else int(text)
    try:
        header = json.loads(request.body[:length])
    except (ValueError, RecursionError):
        raise _bad("the request is not JSON") from None
    if not isinstance(header, dict):
        raise _bad("the request is not a JSON object")
    return header, request.body[length:]


def _images(header: dict[str, Any], binary: bytes) -> list[bytes]:
    """Return the encoded images of the input ``image``.

    Raises:
        HttpError: the input is missing or malformed.
    """
    match header.get("inputs"):
        case [{"name": "image", "datatype": "BYTES", "shape": list(shape)} as tensor]:
            pass
        case _:
            raise _bad("expected one input, with the name 'image', the datatype BYTES and a shape")
    if not (1 <= len(shape) <= 2 and all(type(size) is int for size in shape) and shape[1:] in ([], [1])):
        raise _bad("the shape of 'image' is not [N] or [N, 1]")
    size = _parameters(tensor).get("binary_data_size")
    images = _binary_images(binary, size) if size is not None else _json_images(tensor.get("data"))
    if len(images) != shape[0] or not 1 <= len(images) <= MAX_IMAGES:
        raise _bad(f"'image' has {len(images)} elements and the shape {shape}; 1 to {MAX_IMAGES} are possible")
    return images


def _parameters(tensor: Any) -> dict[str, Any]:
    parameters = tensor.get("parameters", {}) if isinstance(tensor, dict) else {}
    return parameters if isinstance(parameters, dict) else {}


def _binary_images(binary: bytes, size: Any) -> list[bytes]:
    """Split binary data of BYTES: each element is its length, in 4 bytes, and its content."""
    if type(size) is not int or size != len(binary):
        raise _bad("binary_data_size is not the size of the binary data")
    images, start = [], 0
    while start < size:
        (length,) = struct.unpack_from("<I", binary, start) if start + 4 <= size else (size,)
        if start + 4 + length > size:
            raise _bad("the binary data of 'image' ends early")
        images.append(binary[start + 4 : start + 4 + length])
        start += 4 + length
    return images


def _json_images(data: Any) -> list[bytes]:
    texts = (
        [item for row in data for item in (row if isinstance(row, list) else [row])] if isinstance(data, list) else []
    )
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, TypeError, ValueError):
        raise _bad("the data of 'image' is not Base64") from None


def _top_k(header: dict[str, Any]) -> int:
    value = _parameters(header).get("top_k", DEFAULT_TOP_K)
    if type(value) is not int or value < 1:
        raise _bad("the parameter top_k is not a number that is at least 1")
    return value


def _requested_outputs(header: dict[str, Any]) -> dict[str, bool]:
    """Return the names of the outputs, and whether each is binary."""
    default = _parameters(header).get("binary_data_output") is True
    requested = header.get("outputs") or [{"name": name} for name in DATATYPES]
    if not isinstance(requested, list) or len(requested) > len(DATATYPES):
        raise _bad("the outputs are not a list of at most 3")
    is_binary: dict[str, bool] = {}
    for output in requested:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in DATATYPES:
            raise _bad(f"the outputs are {', '.join(DATATYPES)}")
        is_binary[name] = _parameters(output).get("binary_data", default) is True
    return is_binary


def _tensors(rows: Sequence[Sequence[Ranked]], model: ServedModel) -> dict[str, list[list[Any]]]:
    names = model.checkpoint.labels.names
    return {
        "index": [[ranked.class_index for ranked in row] for row in rows],
        "label": [[names[ranked.class_index] for ranked in row] for row in rows],
        "prob": [[round(ranked.prob, 6) for ranked in row] for row in rows],
    }


def _response(
    header: dict[str, Any], name: str, tensors: dict[str, list[list[Any]]], outputs: dict[str, bool]
) -> Response:
    described, binaries = [], []
    for output, is_binary in outputs.items():
        rows = tensors[output]
        values = [value for row in rows for value in row]
        entry: dict[str, Any] = {"name": output, "datatype": DATATYPES[output], "shape": [len(rows), len(rows[0])]}
        if is_binary:
            binaries.append(_as_binary(output, values))
            entry["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            entry["data"] = values
        described.append(entry)
    answer = {"model_name": name, "model_version": "1", "outputs": described}
    if isinstance(header.get("id"), str):
        answer["id"] = header["id"]
    if not binaries:
        return json_response(answer)
    text = json.dumps(answer).encode()
    return Response(HTTPStatus.OK, b"".join((text, *binaries)), BINARY, ((HEADER_LENGTH, str(len(text))),))


def _as_binary(output: str, values: Sequence[Any]) -> bytes:
    if output == "label":
        texts = [value.encode("utf-8", "replace") for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(values, "<i8" if output == "index" else "<f4").tobytes()
