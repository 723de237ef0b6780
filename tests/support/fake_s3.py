"""A fake S3 endpoint on 127.0.0.1 with faults, and the environment with which s3fs uses it."""

import hashlib
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal
from urllib import request
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.fake_hub import Exchange, Server

SECRET = "tests-only-secret-1x2y3z"
# A status, no answer, a cut or reset body, another content from now on, or another content each time.
Fault = int | Literal["stall", "cut", "reset", "changed", "changing"]


class FakeS3(Server):
    """Buckets whose answers may fail.

    Attributes:
        faults: the faults of the next requests for an object (``bucket/key``) or a listing (``bucket``), in order. The
            last one stays.
        page_size: the number of keys in a page of a listing.
        retry_after_s: sent with a status from 400 on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        super().reset()
        self.objects: dict[str, bytes] = {}
        self.listed_only: dict[str, bytes] = {}  # objects that can be listed, but not read
        self.faults: dict[str, list[Fault | None]] = {}
        self.page_size = 1000
        self.retry_after_s: int | None = None
        self.num_reads = 0

    def add(self, bucket: str, files: Mapping[str, bytes]) -> None:
        self.objects |= {f"{bucket}/{key}": content for key, content in files.items()}

    def environment(self) -> dict[str, str]:
        return environment(self.url)

    def answer(self, exchange: Exchange, path: str) -> None:
        if exchange.headers.get("Expect") == "100-continue":
            exchange.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = exchange.rfile.read(int(exchange.headers.get("Content-Length") or 0))
        name = unquote(path).strip("/") if unquote(path).count("/") < 2 else unquote(path).removeprefix("/")
        faults = self.faults.get(name, [])
        fault = faults.pop(0) if len(faults) > 1 else (faults or [None])[0]
        query = {key: values[0] for key, values in parse_qs(urlsplit(exchange.path).query, True).items()}
        if isinstance(fault, int):
            after: dict[str, str | int] = {} if self.retry_after_s is None else {"Retry-After": self.retry_after_s}
            exchange.reply(fault, b"<Error><Code>Fault%d</Code></Error>" % fault, after)
        elif fault == "stall":
            exchange.stall()
        elif exchange.command in ("PUT", "POST", "DELETE"):
            self._write(exchange, name, body, query)
        elif "/" in name:
            self._read(exchange, name, fault)
        else:
            self._list(exchange, name, query)

    def _write(self, exchange: Exchange, name: str, body: bytes, query: Mapping[str, str]) -> None:
        if "uploads" in query:
            answer = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            exchange.reply(200, answer)
        elif exchange.command == "PUT":
            self.objects[name] = body
            exchange.reply(200, b"", {"ETag": tag_of(body)})
        else:
            exchange.reply(204, b"")

    def _read(self, exchange: Exchange, name: str, fault: Fault | None) -> None:
        content = self.objects.get(name)
        if content is None:
            exchange.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if fault in ("changed", "changing"):
            self.num_reads += 1
            content += b"!" * (self.num_reads if fault == "changing" else 1)
        headers: dict[str, str | int] = {"ETag": tag_of(content)}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.headers.get("Range", ""))
        if match:
            start, end = int(match[1]), int(match[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
            content = content[start:end]
        exchange.head(206 if match else 200, {"Content-Length": len(content), **headers})
        if exchange.command == "GET":
            exchange.wfile.write(content[: len(content) // 2] if fault in ("cut", "reset") else content)
        if fault == "reset":
            exchange.wfile.flush()
            # with this option, closing sends RST
            exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _list(self, exchange: Exchange, bucket: str, query: Mapping[str, str]) -> None:
        names = sorted({**self.objects, **self.listed_only}, key=str.encode)
        keys = [name.partition("/")[2] for name in names if name.startswith(f"{bucket}/")]
        if not keys:
            exchange.reply(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            return
        items = _items(keys, query.get("prefix", ""), query.get("delimiter", ""))
        start = int(query.get("continuation-token", 0))
        size = min(self.page_size, int(query.get("max-keys", 1000)))
        page, more = items[start : start + size], len(items) > start + size
        body = "".join(self._item(bucket, item) for item in page)
        token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if more else ""
        answer = f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}"
        exchange.reply(200, f"<ListBucketResult>{answer}</ListBucketResult>".encode())

    def _item(self, bucket: str, item: str) -> str:
        if item.endswith("//"):
            return f"<CommonPrefixes><Prefix>{quote(item[:-1])}</Prefix></CommonPrefixes>"
        content = {**self.listed_only, **self.objects}[f"{bucket}/{item}"]
        tag = f"<Size>{len(content)}</Size><ETag>{tag_of(content)}</ETag>"
        return f"<Contents><Key>{quote(item)}</Key>{tag}</Contents>"


def _items(keys: list[str], prefix: str, delimiter: str) -> list[str]:
    """Return the keys with a prefix; with a delimiter, folders once, marked with two slashes."""
    found: dict[str, None] = {}
    for key in keys:
        if key.startswith(prefix):
            folder, separator, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            found[f"{prefix}{folder}//" if separator else key] = None
    return [*found]


def tag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def environment(url: str) -> dict[str, str]:
    """Return the variables with which s3fs uses an endpoint."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's S3 server on 127.0.0.1 and yield its URL."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def put(url: str, bucket: str, files: Mapping[str, bytes]) -> None:
    """Create a bucket, unless it exists, and store objects in it."""
    _request("PUT", f"{url}/{bucket}", b"")
    for key, content in files.items():
        _request("PUT", f"{url}/{bucket}/{quote(key)}", content)


def get(url: str, name: str) -> bytes:
    """Return the content of an object, ``bucket/key``."""
    return _request("GET", f"{url}/{quote(name)}", None)


def _request(method: str, url: str, content: bytes | None) -> bytes:
    # moto checks no signature
    signed = "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request"
    headers = {"Authorization": signed, "Content-Type": "application/octet-stream"}
    with request.urlopen(request.Request(url, content, headers, method=method)) as answer:
        body: bytes = answer.read()
    return body
