"""Splitting of multipart bodies."""

import time
from contextlib import suppress

import pytest

from levit_cli.serve.messages import HttpError
from levit_cli.serve.multipart import Part, split_parts

HEAD = b'Content-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n'
MIB = 1 << 20


def split(body: bytes, boundary: str = "b") -> list[Part]:
    return split_parts(body, f"multipart/form-data; boundary={boundary}")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"--b\r\n" + HEAD + b"x\r\n--b--\r\n", [("a.jpg", b"x")]),
        (b"--b\r\n" + HEAD + b"x\r\n--b--", [("a.jpg", b"x")]),
        (b"\r\n--b\r\n" + HEAD + b"x\r\n--b--", [("a.jpg", b"x")]),
        (b"\r\n\r\n\r\n--b\r\n" + HEAD + b"x\r\n--b--\r\nepilogue", [("a.jpg", b"x")]),
        (b"--b \t\r\n" + HEAD + b"x\r\n--b \r\n" + HEAD + b"\r\n--b--", [("a.jpg", b"x"), ("a.jpg", b"")]),
        (b"--b\r\n" + HEAD + b"\r\n--\r\n--a\r\n\r\n--b--", [("a.jpg", b"\r\n--\r\n--a\r\n")]),
        (b"--b\r\n\r\nx\r\n--b--", [("-", b"x")]),
        (b"--b\r\nX: y\r\n\r\n\r\n\r\n\r\n--b--", [("-", b"\r\n\r\n")]),
        (b'--b\r\ncontent-disposition:form-data;filename="a\\"b.jpg"\r\n\r\n\r\n--b--', [('a"b.jpg', b"")]),
        (b"--b--", []),
    ],
)
def test_parts_are_what_is_between_the_delimiters(body: bytes, parts: list[tuple[str, bytes]]) -> None:
    assert split(body) == parts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n",
        b"--b\r\n\r\nx\r\n--b",
        b"--b\r\n" + HEAD + b"x",
        b"--b\r\n" + HEAD + b"x\r\n--bX\r\n--b--",
        b"--b\r\n--b--",
        b"--b\r\n\r\n--b--",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--",
        b"--b\r\n folded: y\r\n\r\nx\r\n--b--",
        b"--b\r\nX: " + bytes(9000) + b"\r\n\r\nx\r\n--b--",
        b"X--b\r\n" + HEAD + b"x\r\n--b\r\n" + HEAD + b"x\r\n--b--",
        b"--b\n\nx\n--b--",
        b"x--b\r\n\r\nx\r\n--b--",
        (b"--b\r\n" + HEAD + b"x\r\n") * 1001 + b"--b--",
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        split(body)
    assert refused.value.status == 400


@pytest.mark.guarantee("serve-bad-body")
@pytest.mark.parametrize("text", [b"\r\n--bX", b"\r\n--", b"\r", b"\r\n\r\n", b"--b\r\n", b"A: b\r\n"])
@pytest.mark.parametrize("head", [HEAD, b""])
def test_a_hostile_body_takes_no_more_time_than_another(text: bytes, head: bytes) -> None:
    body = b"--b\r\n" + head + text * (4 * MIB // len(text)) + b"\r\n--b--\r\n"
    start = time.thread_time()
    with suppress(HttpError):
        split(body)
    assert time.thread_time() - start < 0.3
