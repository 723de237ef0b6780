"""Split a multipart/form-data body into its files.

The delimiters are found with ``bytes.find``: a parser that calls Python for each of them took 8 seconds for a hostile
body of 20 MiB, and meanwhile no other request was answered.
"""

import re
from http import HTTPStatus
from typing import NamedTuple

from levit_cli.serve.messages import HttpError
from levit_cli.system.extras import extra

MAX_PARTS, MAX_PART_HEADER_BYTES = 1000, 8 << 10
PADDING = re.compile(rb"[ \t]{0,100}\r\n")  # of the line of a delimiter
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")


class Part(NamedTuple):
    """One part: its file name, or ``-`` if it has none, and its content."""

    name: str
    content: bytes


def split_parts(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a body in order.

    Args:
        content_type: the header of the request, which names the boundary.

    Raises:
        HttpError: the boundary is missing or wrong, the body is malformed or ends early, or it has too many parts.
    """
    boundary = _options(content_type).get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:  # RFC 2046 admits 70; some clients send more
        raise _bad("the multipart boundary is missing or too long")
    delimiter, parts = b"\r\n--" + boundary, list[Part]()
    end, start = 0, len(delimiter) - 2
    if not body.startswith(delimiter[2:]):
        end = body.find(delimiter)
        start = end + len(delimiter)
        if body[: max(end, 0)].strip(b"\r\n"):  # it may be a part whose delimiter is damaged
            raise _bad("the multipart body is malformed")
    while end >= 0 and not body.startswith(b"--", start):
        padding = PADDING.match(body, start)
        if padding is None:
            raise _bad("the multipart body is malformed")
        if len(parts) == MAX_PARTS:
            raise _bad(f"more than {MAX_PARTS:,} parts")
        end = body.find(delimiter, padding.end())
        if end >= 0:
            parts.append(_part(body, padding.end(), end))
        start = end + len(delimiter)
    if end < 0:
        raise _bad("the multipart body ends early, or its boundary is another")
    return parts


def _part(body: bytes, start: int, end: int) -> Part:
    """Return the part between two delimiters.

    Raises:
        HttpError: its headers are malformed or too long.
    """
    is_bare = body.startswith(b"\r\n", start, end)  # it has no headers
    stop = start if is_bare else body.find(b"\r\n\r\n", start, min(end, start + MAX_PART_HEADER_BYTES + 4))
    if stop < 0:
        is_long = end - start > MAX_PART_HEADER_BYTES
        raise _bad("the headers of a part are too long" if is_long else "the multipart body is malformed")
    name = "-"
    for line in body[start:stop].split(b"\r\n") if not is_bare else ():
        header = HEADER_LINE.fullmatch(line)
        if header is None:
            raise _bad("the multipart body is malformed")
        if header[1].lower() == b"content-disposition":
            name = _options(header[2]).get(b"filename", b"").decode("utf-8", "replace") or "-"
    return Part(name, body[stop + (2 if is_bare else 4) : end])


def _options(header: str | bytes) -> dict[bytes, bytes]:
    with extra("serve", "Serving"):  # imported here because few requests need it
        from python_multipart.multipart import parse_options_header
    return parse_options_header(header)[1]


def _bad(reason: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, reason)
