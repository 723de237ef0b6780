"""Open a store by its URL, list it in pages, and read its objects. The home of fsspec, s3fs and the hub's file system.

fsspec collects a whole listing before it returns, and it keeps it. S3 and the hub are therefore listed page by page
with their own clients; other file systems folder by folder. Credentials are found by those libraries. They are not
read here, and errors are raised again without the exceptions that may show them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

from levit_cli.data.remote.names import one_line, scheme_of, without_secrets
from levit_cli.data.remote.retry import ChangedError, RemoteError, Retry
from levit_cli.data.remote.signed_get import SignedGet
from levit_cli.errors import InputError, UsageError
from levit_cli.system.extras import extra, pip_command

MAX_OBJECT_BYTES = 100 << 20
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20  # of an upload; a smaller file is uploaded in one request
TRANSFER_S = 6 * 3600.0  # for all attempts to copy an output
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
S3_SCHEMES = ("s3", "s3a")
# Schemes of fsspec that name no store of files: they wrap another file system, or are downloaded without it.
NOT_STORES = (
    "blockcache", "cached", "data", "dir", "filecache", "generic", "http", "https", "libarchive", "reference",
    "simplecache", "tar", "zip",
)  # fmt: skip
# File systems that may be used by several threads at once; asynchronous ones are among them too.
THREAD_SAFE = ("hf", "file", "local", "memory")
# What fsspec's messages ask for, as packages that pip installs.
PACKAGES = {
    "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "adl": "adlfs", "sftp": "paramiko",
    "ssh": "paramiko", "smb": "smbprotocol", "oci": "ocifs", "oss": "ossfs", "webdav": "webdav4", "github": "requests",
}  # fmt: skip


class Entry(NamedTuple):
    """An object or a folder in a store.

    Args:
        path: its path as the file system names it: without the scheme, folders without a slash at the end.
        size: in bytes; None if it is unknown.
        tag: changes if the content changes, such as an ETag; None if there is none.
    """

    path: str
    size: int | None = None
    tag: str | None = None
    is_folder: bool = False


class _Content(NamedTuple):
    data: bytes
    tag: str | None


class Store:
    """A file system of fsspec.

    Args:
        fs: the file system.
        base: what precedes a path in the names of its objects, such as ``s3://``.

    A pickled store is opened again, with the credentials that its libraries find there.

    Attributes:
        is_flat: whether ``tree`` lists the objects at all levels at once; else ``level`` lists one folder.

    Raises (each method):
        RemoteError: the store refused the request or cannot be reached.
    """

    is_flat = False
    opened_with: tuple[str, str, tuple[tuple[str, Any], ...]] = ("", "", ())

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, self.opened_with

    def __init__(self, fs: Any, base: str, retry: Retry | None = None) -> None:
        self._fs, self._base, self._retry = fs, base, retry or Retry()
        # Only one thread at a time may use a file system that is not made for several.
        is_shared = fs.async_impl or base.partition(":")[0] in THREAD_SAFE
        self._patient = replace(self._retry, total_s=TRANSFER_S)
        self._turn = nullcontext() if is_shared else threading.Lock()

    def name(self, path: str) -> str:
        """Return the name of an object as the user would give it, without secrets."""
        return without_secrets(self._base) + path

    def level(self, folder: str, starts: str = "") -> Iterator[Entry]:
        """Yield the objects and folders directly in a folder whose names begin with ``starts``, in order of bytes."""
        infos = self._retry(lambda _: self._call(self._fs.ls, folder, detail=True))
        entries = (_entry(info) for info in infos)
        inside = [item for item in entries if item.path.strip("/") != folder.strip("/")]
        for entry in sorted(inside, key=lambda item: item.path.encode(errors="surrogateescape")):
            if entry.path.rpartition("/")[2].startswith(starts):
                yield entry

    def tree(self, folder: str) -> Iterator[Entry]:
        """Yield the objects in a folder at all levels, page by page; only if ``is_flat``."""
        raise NotImplementedError

    def find(self, path: str) -> Entry | None:
        """Return the object or folder with this path; None if there is none."""
        try:
            return _entry(self._retry(lambda _: self._call(self._fs.info, path)))
        except RemoteError as error:
            if error.status == 404:
                return None
            raise

    def load(self, entry: Entry) -> bytes:
        """Return the content of an object.

        An object that differs from what was listed, because it was replaced meanwhile, is read again until two reads
        give the same version.

        Raises:
            InputError: ``download``, whatever the reason.
        """
        try:
            return self._load(entry)
        except RemoteError as error:
            raise InputError("download", str(error)) from None

    def _load(self, entry: Entry) -> bytes:
        expected = entry

        def attempt(seconds: float) -> bytes:
            nonlocal expected
            content = self._read(expected, seconds)
            found = Entry(entry.path, len(content.data), content.tag)
            if not _same_version(expected, found):
                expected = found
                raise ChangedError
            return content.data

        return self._retry(attempt)

    def _read(self, entry: Entry, seconds: float) -> _Content:  # noqa: ARG002 - only some libraries know a time limit
        info = _entry(self._call(self._fs.info, entry.path))
        if info.is_folder:
            raise RemoteError("it is a folder")
        size = require_size(info.size) if info.size is not None else MAX_OBJECT_BYTES
        if size == 0:
            return _Content(b"", info.tag)
        data = self._call(self._fs.cat_file, entry.path, start=0, end=size + 1)
        require_size(len(data))
        return _Content(bytes(data), info.tag)

    def ranges(self, entry: Entry) -> Callable[[int, int], bytes]:
        """Return a function that reads the bytes of an object from an offset to another, all of one version.

        It raises ``InputError`` with the kind ``download``.
        """
        part = self._part(entry)

        def read(start: int, end: int) -> bytes:
            try:
                return self._retry(lambda seconds: part(start, end, seconds))
            except RemoteError as error:
                raise InputError("download", str(error)) from None

        return read

    def _part(self, entry: Entry) -> Callable[[int, int, float], bytes]:
        file = self._retry(lambda _: self._call(self._fs.open, entry.path, "rb"))

        def part(start: int, end: int) -> bytes:
            file.seek(start)
            return bytes(file.read(end - start))

        return lambda start, end, _: self._call(part, start, end)

    def upload(self, local: str, path: str) -> None:
        """Write a local file to the store under a name that appears when it is complete."""
        temporary = path + ".levit-part"

        def attempt(_: float) -> None:
            self._call(self._fs.put_file, local, temporary)
            self._call(self._fs.mv, temporary, path)

        self._patient(attempt)

    def download(self, path: str, local: str) -> None:
        """Copy an object to a local file."""
        self._patient(lambda _: self._call(self._fs.get_file, path, local))

    def remove(self, path: str) -> None:
        """Remove an object."""
        self._retry(lambda _: self._call(self._fs.rm_file, path))

    def require_writable(self, path: str) -> None:
        """Check that an object may be written, if the store has a way to ask."""

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._turn:
            return method(*arguments, **options)


class _Uploads(Store):
    """A store in which an uploaded object appears when it is complete."""

    _how: ClassVar[dict[str, int]] = {}

    def upload(self, local: str, path: str) -> None:
        self._patient(lambda _: self._fs.put_file(local, path, **self._how))


class _S3(_Uploads):
    """S3 and stores with its interface, listed in pages of 1,000 keys in the order of their bytes."""

    is_flat = True

    def __init__(self, fs: Any, base: str) -> None:
        super().__init__(fs, base)
        self._signed_get = SignedGet(fs, CONNECT_TIMEOUT_S, READ_TIMEOUT_S, require_size)

    _how: ClassVar[dict[str, int]] = {"chunksize": PART_BYTES, "max_concurrency": 4}

    def level(self, folder: str, starts: str = "") -> Iterator[Entry]:
        bucket, prefix = self._prefix(folder)
        for page in self._pages(bucket, prefix + starts, delimiter="/"):
            folders = [
                Entry(f"{bucket}/{shared['Prefix'].removesuffix('/')}", is_folder=True)
                for shared in page.get("CommonPrefixes", ())
            ]
            yield from sorted([*folders, *_objects(bucket, page)], key=_sort_key)

    def tree(self, folder: str) -> Iterator[Entry]:
        bucket, prefix = self._prefix(folder)
        for page in self._pages(bucket, prefix):
            yield from _objects(bucket, page)

    def find(self, path: str) -> Entry | None:
        bucket, key, _ = self._fs.split_path(path)
        if key and not key.endswith("/") and (entry := self._head(bucket, key, path)):
            return entry
        page = next(self._pages(*self._prefix(path), limit=1))
        found = page.get("Contents") or page.get("CommonPrefixes")
        return Entry(path, is_folder=True) if found or not key else None

    def _head(self, bucket: str, key: str, path: str) -> Entry | None:
        try:
            head = self._ask("head_object", Bucket=bucket, Key=key)
        except RemoteError as error:
            if error.status == 404:
                return None
            raise
        return Entry(path, head.get("ContentLength"), head.get("ETag"))

    def _read(self, entry: Entry, seconds: float) -> _Content:
        bucket, key, _ = self._fs.split_path(entry.path)
        found = self._signed_get(bucket, key, seconds)
        return _Content(*found) if found else self._get(entry.path, seconds)

    def _part(self, entry: Entry) -> Callable[[int, int, float], bytes]:
        condition = {"IfMatch": entry.tag} if entry.tag else {}

        def part(start: int, end: int, seconds: float) -> bytes:
            content = self._get(entry.path, seconds, Range=f"bytes={start}-{end - 1}", **condition)
            if entry.tag and content.tag != entry.tag:
                raise RemoteError("it changed while it was read")
            return content.data

        return part

    def _get(self, path: str, seconds: float, **options: str) -> _Content:
        from fsspec.asyn import sync

        bucket, key, _ = self._fs.split_path(path)
        content: _Content = sync(self._fs.loop, partial(_get_object, self._fs, bucket, key, options), timeout=seconds)
        return content

    def require_writable(self, path: str) -> None:
        """Start an upload in parts and cancel it, which needs the same rights and leaves no object."""
        bucket, key, _ = self._fs.split_path(path)
        upload = self._ask("create_multipart_upload", Bucket=bucket, Key=key)
        self._ask("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])

    def _prefix(self, folder: str) -> tuple[str, str]:
        bucket, key, _ = self._fs.split_path(folder)
        return bucket, f"{key.removesuffix('/')}/" if key else ""

    def _pages(self, bucket: str, prefix: str, delimiter: str = "", limit: int | None = None) -> Iterator[Any]:
        options: dict[str, str | int] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter}
        if limit:
            options["MaxKeys"] = limit
        token = None
        while True:
            page = self._ask("list_objects_v2", **options, **({"ContinuationToken": token} if token else {}))
            yield page
            before, token = token, page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                return
            if not token or token == before:
                raise RemoteError("the store's listing does not continue")

    def _ask(self, operation: str, **options: Any) -> Any:
        return self._retry(lambda seconds: self._fs.call_s3(operation, **options, timeout=seconds))


def _objects(bucket: str, page: Any) -> Iterator[Entry]:
    """Yield the objects in a page of a listing, without the empty ones that stand for folders."""
    for item in page.get("Contents", ()):
        if not item["Key"].endswith("/"):
            yield Entry(f"{bucket}/{item['Key']}", item["Size"], item.get("ETag"))


def _sort_key(entry: Entry) -> bytes:
    return (entry.path + "/" * entry.is_folder).encode(errors="surrogatepass")


async def _get_object(fs: Any, bucket: str, key: str, options: dict[str, str]) -> _Content:
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **options)
    data = bytearray()
    async with response["Body"] as body:
        declared = require_size(response.get("ContentLength") or 0)
        while chunk := await body.read(CHUNK_BYTES):
            data += chunk
            require_size(len(data))
    if len(data) < declared:
        raise ConnectionResetError(f"the answer was cut off after {len(data):,} of {declared:,} bytes")
    return _Content(bytes(data), response.get("ETag"))


class _Hub(_Uploads):
    """Repositories on the hub, listed in pages. Files are streamed without asking for their size first."""

    is_flat = True

    def __init__(self, fs: Any, base: str) -> None:
        from huggingface_hub import HfApi

        super().__init__(fs, base)
        self._hub = HfApi(endpoint=fs.endpoint, token=fs.token)

    def level(self, folder: str, starts: str = "") -> Iterator[Entry]:
        for entry in self._list(folder, recursive=False):
            if entry.path.rpartition("/")[2].startswith(starts):
                yield entry

    def tree(self, folder: str) -> Iterator[Entry]:
        return (entry for entry in self._list(folder, recursive=True) if not entry.is_folder)

    def _list(self, folder: str, *, recursive: bool) -> Iterator[Entry]:
        root, place = self._place(folder)
        items = self._hub.list_repo_tree(path_in_repo=place.pop("path") or None, recursive=recursive, **place)
        try:
            for item in items:
                yield _hub_entry(root, item)
        except Exception as error:  # the library repeats its requests itself
            self._retry(_raising(error))

    def find(self, path: str) -> Entry | None:
        root, place = self._place(path)
        name = place.pop("path")
        if not name:
            return Entry(path, is_folder=True)
        found = self._retry(lambda _: self._hub.get_paths_info(paths=[name], **place))
        return _hub_entry(root, found[0]) if found else None

    def _place(self, path: str) -> tuple[str, dict[str, Any]]:
        """Return the repository in a path, and the arguments that name it to the hub's client."""
        place = self._retry(lambda _: self._fs.resolve_path(path))
        arguments = {"repo_id": place.repo_id, "repo_type": place.repo_type, "revision": place.revision}
        return place.root, {**arguments, "path": place.path}

    def _read(self, entry: Entry, seconds: float) -> _Content:  # noqa: ARG002
        with self._fs.open(entry.path, "rb", block_size=0) as file:
            data = bytearray()
            while chunk := file.read(CHUNK_BYTES):
                data += chunk
                require_size(len(data))
        return _Content(bytes(data), entry.tag)


def _hub_entry(root: str, item: Any) -> Entry:
    path = f"{root}/{item.path}"
    is_file = hasattr(item, "blob_id")
    return Entry(path, item.size, item.blob_id) if is_file else Entry(path, is_folder=True)


def _raising(error: BaseException) -> Callable[[float], None]:
    def attempt(_: float) -> None:
        raise RemoteError(one_line(str(error)), 404 if isinstance(error, FileNotFoundError) else None)

    return attempt


def _entry(info: Any) -> Entry:
    tags = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created"))
    tag = next((str(tag) for tag in tags if tag), None)
    return Entry(info["name"].rstrip("/") or "/", info.get("size"), tag, info.get("type") == "directory")


def _same_version(expected: Entry, found: Entry) -> bool:
    pairs = ((expected.size, found.size), (expected.tag, found.tag))
    return all(one is None or other is None or one == other for one, other in pairs)


def require_size(size: int) -> int:
    """Return the size of an object, which must not be above the limit.

    Raises:
        RemoteError: it is.
    """
    if size > MAX_OBJECT_BYTES:
        raise RemoteError(f"the object has {size:,} bytes or more; the limit is {MAX_OBJECT_BYTES:,}")
    return size


def open_store(url: str) -> tuple[Store, str]:
    """Return the store of a URL, and the path in it. No request is sent, except to find credentials.

    Raises:
        UsageError: the scheme is unknown, or a package is missing.
        RemoteError: the file system cannot be used, for example because a login fails.
    """
    scheme = scheme_of(url)
    shown = without_secrets(url)
    _import_libraries(scheme)
    if scheme in S3_SCHEMES and shown != url and "?" not in url:
        why = "it holds credentials, which other programs on this machine can see"
        raise UsageError(f"Cannot use {shown}", why=why, hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    kind = _file_system_class(scheme, shown)
    known = scheme + url[len(scheme) :]  # fsspec knows no scheme in upper case
    path = str(kind._strip_protocol(known))
    options = kind._get_kwargs_from_urls(known)
    trimmed = url.rstrip("/")
    base = trimmed.removesuffix(path) if path and trimmed.endswith(path) else f"{scheme}://"
    if not path.strip("/") and scheme not in ("memory", "file", "ftp", "sftp", "ssh"):
        raise UsageError(f"Cannot use {shown}", why="it names no bucket", hint=f"use {scheme}://BUCKET/FOLDER/")
    kind_of_store = "hf buckets" if scheme == "hf" and path.startswith("buckets/") else scheme
    return _opened(kind_of_store, base, tuple(sorted(options.items()))), path


def _opened(kind: str, base: str, options: tuple[tuple[str, Any], ...]) -> Store:
    _import_libraries(kind.partition(" ")[0])
    store = _store(kind, base, options, os.getpid())
    store.opened_with = (kind, base, options)
    return store


def _import_libraries(scheme: str) -> None:
    """Import fsspec, which the core has too, and for S3 also s3fs.

    Raises:
        UsageError: the extra is not installed.
        RefusedError: it is installed, but an import fails.
    """
    if scheme not in S3_SCHEMES:
        with suppress(ImportError):
            import fsspec

            return
    with extra("remote", f"Using {scheme}:// URLs"):
        import fsspec  # noqa: F401
        import s3fs  # noqa: F401


def _file_system_class(scheme: str, shown: str) -> Any:
    from fsspec import get_filesystem_class

    if scheme in NOT_STORES:
        raise UsageError(f"Cannot read {shown}", why=f"{scheme}:// names no store", hint="name the file itself")
    try:
        return get_filesystem_class(scheme)
    except ValueError:
        why = f"{scheme}:// is no scheme that fsspec knows"
        raise UsageError(
            f"Cannot read {shown}", why=why, hint="use s3://, gs://, az://, hf:// or a local path"
        ) from None
    except ImportError as error:
        raise _missing_package(scheme, shown, error) from None


def _missing_package(scheme: str, shown: str, error: ImportError) -> UsageError:
    command = pip_command("remote").partition("'")[0]  # without the extra
    package = PACKAGES.get(scheme)
    hint = f"{command}{package}" if package else ""
    return UsageError(f"Cannot read {shown}", why=one_line(str(error)), hint=hint)


@lru_cache(maxsize=16)
def _store(kind: str, base: str, options: tuple[tuple[str, Any], ...], process: int) -> Store:  # noqa: ARG001
    """Return a store, the same one for all its URLs. A forked process opens its own."""
    import fsspec

    scheme = kind.partition(" ")[0]

    if scheme in S3_SCHEMES:
        fs = fsspec.filesystem(scheme, **dict(options), config_kwargs=_s3_config(), skip_instance_cache=True)
        fs.retries = 1  # requests are repeated here, with one limit on the time
        return _S3(fs, base)
    kept = {} if scheme == "hf" else {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        fs = fsspec.filesystem(scheme, **dict(options), **kept)
    except ImportError as error:
        raise _missing_package(scheme, without_secrets(base), error) from None
    except Exception as error:
        raise RemoteError(one_line(str(error) or type(error).__name__)) from None
    if kind == "hf":
        return _Hub(fs, base)
    return _Uploads(fs, base) if fs.async_impl else Store(fs, base)


def _s3_config() -> dict[str, Any]:
    """Return the settings of botocore: those in fsspec's configuration, our time limits, and no retries of its own."""
    from fsspec.config import conf

    configured = conf.get("s3", {}).get("config_kwargs", {})
    ours = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "max_pool_connections": 32,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    }
    return {**ours, **configured}
