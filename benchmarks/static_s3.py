"""Serve a folder as a read-only S3 bucket on 127.0.0.1: ``python -m benchmarks.static_s3 FOLDER``.

It answers listings in pages of 1,000 keys, HEAD and GET, with ranges. It checks no signatures. A request takes about
0.1 ms of CPU time, so that a benchmark on the same cores measures ``levit`` and not the server. moto's server takes
several milliseconds.
"""

import argparse
import asyncio
import hashlib
import os
import re
from bisect import bisect_left
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

BUCKET = "bucket"
PAGE = 1000
RANGE = re.compile(rb"range: bytes=(\d+)-(\d*)", re.IGNORECASE)


class Bucket:
    """The files of a folder by their keys."""

    def __init__(self, folder: Path) -> None:
        names = (Path(top, name) for top, _, files in os.walk(folder) for name in files)
        self._files = {path.relative_to(folder).as_posix(): path for path in names}
        self._keys = sorted(self._files, key=str.encode)

    def page(self, prefix: str, after: str, limit: int) -> bytes:
        """Return a page of a listing as XML."""
        start = max(bisect_left(self._keys, prefix), bisect_left(self._keys, after + "\0") if after else 0)
        keys = [key for key in self._keys[start : start + limit + 1] if key.startswith(prefix)]
        token = f"<NextContinuationToken>{quote(keys[limit - 1])}</NextContinuationToken>" if len(keys) > limit else ""
        contents = "".join(map(self._content, keys[:limit]))
        more = str(bool(token)).lower()
        return (
            f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><EncodingType>url</EncodingType>'
            f"<KeyCount>{len(keys[:limit])}</KeyCount><IsTruncated>{more}</IsTruncated>{token}{contents}"
            "</ListBucketResult>"
        ).encode()

    def _content(self, key: str) -> str:
        size = self._files[key].stat().st_size
        return f"<Contents><Key>{quote(key)}</Key><Size>{size}</Size><ETag>{_tag(key)}</ETag></Contents>"

    def read(self, key: str) -> bytes | None:
        path = self._files.get(key)
        return path.read_bytes() if path else None


def _tag(key: str) -> str:
    return f'"{hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()}"'


class Connection(asyncio.Protocol):
    """One connection, kept open for many requests."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._received = bucket, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        method, target = head.split(b" ", 2)[:2]
        url = urlsplit(target.decode())
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        if key:
            self._object(method, key, head)
        else:
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            limit = min(PAGE, int(query.get("max-keys", PAGE)))
            after = unquote(query.get("continuation-token", ""))
            self._send(b"200 OK", self._bucket.page(query.get("prefix", ""), after, limit), "", method)

    def _object(self, method: bytes, key: str, head: bytes) -> None:
        body = self._bucket.read(key)
        if body is None:
            self._send(b"404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>", "", method)
            return
        headers, status = f"ETag: {_tag(key)}\r\n", b"200 OK"
        if match := RANGE.search(head):
            size, start = len(body), int(match[1])
            body = body[start : int(match[2]) + 1 if match[2] else None]
            headers += f"Content-Range: bytes {start}-{start + len(body) - 1}/{size}\r\n"
            status = b"206 Partial Content"
        self._send(status, body, headers, method)

    def _send(self, status: bytes, body: bytes, headers: str, method: bytes) -> None:
        head = b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, headers.encode(), len(body))
        self._transport.write(head if method == b"HEAD" else head + body)


async def serve(folder: Path, port: int) -> None:
    bucket = Bucket(folder)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(bucket), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.port))


if __name__ == "__main__":
    main()
