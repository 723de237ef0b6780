"""HTTP requests and responses as values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"
MAX_QUERY_FIELDS = 20


@dataclass
class Request:
    """A request whose headers are complete. Its body is set before the handler is called.

    Args:
        target: the path and query as sent.
        headers: by lower-case name; values of a repeated header are joined with commas.
        client: the peer's address, for the log.
        repeated: the lower-case names of the headers that came more than once.
        is_local_socket: it came over a Unix domain socket.
    """

    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    client: str = ""
    repeated: frozenset[str] = frozenset()
    is_local_socket: bool = False
    body: bytes = field(default=b"", repr=False)

    @property
    def path(self) -> str:
        """The path, percent-decoded.

        Raises:
            HttpError: it is not UTF-8.
        """
        try:
            return unquote(self.target.partition("?")[0], errors="strict")
        except UnicodeDecodeError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the path is not UTF-8") from None

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query; the last one of a name wins.

        Raises:
            HttpError: there are too many fields, or they are not UTF-8.
        """
        try:
            text = self.target.partition("?")[2]
            return dict(
                parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
            )  # fmt: skip
        except ValueError:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the query is malformed") from None

    @property
    def content_length(self) -> int | None:
        """The length of the body; None if it is sent in chunks."""
        if "transfer-encoding" in self.headers:
            return None
        return int(self.headers.get("content-length", "0"))

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Response:
    """An answer. ``headers`` are those besides the content's type and length."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class HttpError(Exception):
    """A request is refused.

    Args:
        status: the status code.
        message: the reason for people, without internals.
        headers: further headers of the answer.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers

    def response(self) -> Response:
        """Return the answer, whose body is ``{"error": message}``."""
        return json_response({"error": self.message}, self.status, self.headers)


def json_response(
    value: Any, status: int = HTTPStatus.OK, headers: tuple[tuple[str, str], ...] = ()
) -> Response:  # fmt: skip
    """Return a value as JSON, on one line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Response(status, text.encode("utf-8", "replace") + b"\n", JSON, headers)
