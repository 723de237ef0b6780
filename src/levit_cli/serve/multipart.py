"""Split a multipart/form-data body into its files."""

from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from levit_cli.serve.messages import HttpError
from levit_cli.system.extras import extra

MAX_PARTS, MAX_PART_HEADER_BYTES = 1000, 8 << 10


class Part(NamedTuple):
    """One part: its file name, or ``-`` if it has none, and its content."""

    name: str
    content: bytes


class _Parts:
    """Collects the parts that python-multipart reports through callbacks."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._slices: list[bytes] = []
        self._header_bytes = 0

    def callbacks(self) -> dict[str, Callable[..., None]]:
        names = ("part_begin", "header_field", "header_value", "header_end", "part_data", "part_end", "end")
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"more than {MAX_PARTS:,} parts")
        self._disposition, self._slices, self._header_bytes = b"", [], 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count(end - start)

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._slices.append(data[start:end])

    def part_end(self) -> None:
        content = self._slices[0] if len(self._slices) == 1 else b"".join(self._slices)
        self.parts.append(Part(_file_name(self._disposition), content))
        self._slices = []

    def end(self) -> None:
        self.is_complete = True

    def _count(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the headers of a part are too long")


def split_parts(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a body in order.

    Args:
        content_type: the header of the request, which names the boundary.

    Raises:
        HttpError: the boundary is missing or wrong, the body is malformed or ends early, or it has too many parts.
    """
    with extra("serve", "Serving"):  # imported here because few requests need it
        from python_multipart.exceptions import MultipartParseError
        from python_multipart.multipart import MultipartParser, parse_options_header
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:  # RFC 2046 admits 70; some clients send more
        raise HttpError(HTTPStatus.BAD_REQUEST, "the multipart boundary is missing or too long")
    collected = _Parts()
    try:
        parser = MultipartParser(boundary, collected.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except MultipartParseError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the multipart body is malformed") from None
    if not collected.is_complete:
        raise HttpError(HTTPStatus.BAD_REQUEST, "the multipart body ends early, or its boundary is another")
    return collected.parts


def _file_name(disposition: bytes) -> str:
    from python_multipart.multipart import parse_options_header

    options = parse_options_header(disposition)[1]
    return options.get(b"filename", b"").decode("utf-8", "replace") or "-"
