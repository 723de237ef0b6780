"""List the inputs of a URL in object storage: one object, a folder, or a glob.

A name in a list that has the suffix of an image is an object; the store is asked about all others. Folders are walked
as on disk: hidden names, folders of thumbnails and other suffixes are skipped and counted. Objects come in the order in
which the store lists them; S3 lists them in the order of their names' bytes.
"""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from levit_cli.data.input import ImageColumns, Input
from levit_cli.data.remote.ahead import RemoteRead
from levit_cli.data.remote.file import buffered
from levit_cli.data.remote.names import without_secrets
from levit_cli.data.remote.retry import RemoteError
from levit_cli.data.remote.stores import Entry, Store, open_store
from levit_cli.data.skipped import PARQUET_SUFFIX, READ_ARCHIVE_SUFFIXES, SUFFIXES, Skipped, reason_to_skip
from levit_cli.errors import InputError, UnreachableError

OFFLINE = "not downloaded, because --offline is set"
NO_OBJECT = "the store has no object and no folder with this name"
NO_MATCH = "the store has no such object, and as a pattern it matches nothing"


def expand(
    url: str,
    skipped: Skipped,
    columns: ImageColumns,
    *,
    literal: bool = False,
    offline: bool = False,
    opens_archives: bool = True,
) -> Iterator[Input]:
    """Yield the inputs of a URL.

    Args:
        skipped: counts what is skipped in folders.
        columns: the columns of Parquet files.
        literal: the URL is no pattern, because it is from a list.
        offline: send no request.
        opens_archives: list what is in archives and Parquet files. Otherwise, each of them is one input.

    Raises:
        UnreachableError: a folder or a pattern cannot be listed.
        UsageError: the scheme is unknown, or a package is missing.
    """
    shown = without_secrets(url)
    is_pattern = not literal and glob.has_magic(url)
    is_object = _is_image(url) and not is_pattern
    if offline:
        if not is_object:
            raise UnreachableError(f"Cannot list {shown}", why="--offline is set")
        yield Input(shown, InputError("download", OFFLINE))
    elif is_object and literal:
        yield named(url)
    else:
        with _listing(shown):
            store, path = open_store(url)
            named_url = _Named(store, path, shown, skipped, columns, opens_archives)
            yield from named_url.inputs(is_pattern=is_pattern, is_object=is_object)


def may_list(url: str, other: str) -> bool:
    """Whether an object is among those that a URL names: itself, what is in a folder, or what matches a glob."""
    parts, names = url.rstrip("/").split("/"), other.split("/")
    is_image = reason_to_skip(names[-1], is_folder=False) is None
    return url == other or _fits(names, parts) or (is_image and _is_in_match(names, parts))


def named(url: str) -> Input:
    """Return the input of a URL that names an object. No request is sent before it is read.

    Raises:
        UsageError: the scheme is unknown, or a package is missing.
    """
    try:
        store, path = open_store(url)
    except RemoteError as error:
        return Input(without_secrets(url), InputError("download", str(error)))
    return _input(store, Entry(path))


def load(url: str) -> bytes:
    """Return the content of the object that a URL names.

    Raises:
        InputError: ``download``.
    """
    item = named(url)
    if item.error is not None:
        raise item.error
    assert item.load is not None
    return item.load()


@contextmanager
def _listing(shown: str) -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        hint = "check the name, the credentials and the network"
        raise UnreachableError(f"Cannot list {shown}", why=str(error), hint=hint) from None


@dataclass(frozen=True)
class _Named:
    """A URL that names an object or a folder, or is a pattern.

    Args:
        path: the path in the store.
        shown: the URL without secrets.
        opens_archives: list what is in archives and Parquet files.
    """

    store: Store
    path: str
    shown: str
    skipped: Skipped
    columns: ImageColumns
    opens_archives: bool = True

    def inputs(self, *, is_pattern: bool, is_object: bool) -> Iterator[Input]:
        """Yield the inputs.

        Args:
            is_object: the name looks like that of an object, so it is one even if the store does not say so.
        """
        if is_pattern and not _exists(self.store, self.path):
            return self._matches()
        if is_object:
            return self._of(_found(self.store, self.path) or Entry(self.path))
        return self._folder_or_object(self.store.find(self.path))

    def _folder_or_object(self, found: Entry | None) -> Iterator[Input]:
        if found is None:
            yield Input(self.shown, InputError("not_found", NO_OBJECT))
            return
        is_empty = True
        for item in self._of(found):
            is_empty = False
            yield item
        if is_empty:
            self.skipped.add_empty(self.shown)

    def _matches(self) -> Iterator[Input]:
        parts = self.path.split("/")
        first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        is_empty = True
        for entry in _glob(self.store, "/".join(parts[:first]), parts[first:], self.skipped):
            for item in self._of(entry):
                is_empty = False
                yield item
        if is_empty:
            yield Input(self.shown, InputError("not_found", NO_MATCH))

    def _of(self, entry: Entry) -> Iterator[Input]:
        """Yield the inputs of an object or folder that was named or matched."""
        if entry.is_folder:
            yield from _walk(self.store, entry.path, self.skipped)
        elif entry.path.lower().endswith((*READ_ARCHIVE_SUFFIXES, PARQUET_SUFFIX)):
            list_members = partial(_members, self.store, entry, self.columns)
            yield from (
                list_members(self.skipped)
                if self.opens_archives
                else [Input(self.store.name(entry.path), members=list_members)]
            )
        else:
            yield _input(self.store, entry)

    def inside(self, entry: Entry) -> Iterator[Input]:
        """Yield the images in an archive or a Parquet file."""
        name = self.store.name(entry.path)
        try:
            entry = entry if entry.size is not None else self.store.find(entry.path) or entry
            if entry.size is None:
                yield _input(self.store, entry)
                return
            for item in self._content(name, entry, entry.size):
                is_whole = item.path == name and item.error is None  # it is no archive, whatever its name
                yield _input(self.store, entry) if is_whole else item
        except RemoteError as error:
            yield Input(name, InputError("download", str(error)))
        except InputError as error:  # of a part of the object
            yield Input(name, error)

    def _content(self, name: str, entry: Entry, size: int) -> Iterator[Input]:
        """Yield what is in an object. An archive is read front to back, ahead of the decoders."""
        file = buffered(self.store.ranges(entry), size)
        if entry.path.lower().endswith(PARQUET_SUFFIX):
            from levit_cli.data.parquet import rows  # imported here because few runs read these files

            return rows(name, file, self.columns, self.skipped, lambda: buffered(self.store.ranges(entry), size))
        from levit_cli.data.archives import members

        return members(name, file, self.skipped)


def _members(store: Store, entry: Entry, columns: ImageColumns, skipped: Skipped) -> Iterator[Input]:
    return _Named(store, entry.path, store.name(entry.path), skipped, columns).inside(entry)


def _exists(store: Store, path: str) -> bool:
    found = _found(store, path)
    return found is not None and not found.is_folder


def _found(store: Store, path: str) -> Entry | None:
    """Return the object or folder of a path; None if the store does not say."""
    try:
        return store.find(path)
    except RemoteError:  # an object may be readable without the right to ask
        return None


def _input(store: Store, entry: Entry) -> Input:
    return Input(store.name(entry.path), load=RemoteRead(partial(store.load, entry), entry.size))


def _walk(store: Store, folder: str, skipped: Skipped) -> Iterator[Input]:
    """Yield the images in a folder and its subfolders."""
    return (_input(store, entry) for entry in _files(store, folder, skipped) if _keeps(store, entry, skipped))


def _files(store: Store, folder: str, skipped: Skipped) -> Iterator[Entry]:
    """Yield all objects in a folder and its subfolders, without the folders that a walk skips."""
    return _flat(store, folder, skipped) if store.is_flat else _deep(store, folder, skipped)


def _flat(store: Store, folder: str, skipped: Skipped) -> Iterator[Entry]:
    """Filter a listing of all levels. A skipped folder is counted once, at its first object."""
    start, last = len(folder.rstrip("/")) + 1, ""
    for entry in store.tree(folder):
        if not last or not entry.path.startswith(last):
            last = _skipped_folder(entry.path, start, store, skipped)
            if not last:
                yield entry


def _skipped_folder(path: str, start: int, store: Store, skipped: Skipped) -> str:
    """Return the first folder in a path that is skipped, with a slash at its end, and count it; else nothing."""
    while (end := path.find("/", start)) >= 0:
        if not _keeps(store, Entry(path[:end], is_folder=True), skipped):
            return path[: end + 1]
        start = end + 1
    return ""


def _deep(store: Store, folder: str, skipped: Skipped) -> Iterator[Entry]:
    """List a folder, then its subfolders, depth first. Only the entries of the folders above are in memory."""
    stack = [store.level(folder)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif not entry.is_folder:
            yield entry
        elif _keeps(store, entry, skipped):
            stack.append(store.level(entry.path))


def _keeps(store: Store, entry: Entry, skipped: Skipped) -> bool:
    """Whether a walk takes an object or a folder; others are counted."""
    reason = reason_to_skip(_last_name(entry.path), is_folder=entry.is_folder)
    if reason is not None:
        skipped.add(store.name(entry.path), reason)
    return reason is None


def _last_name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_image(url: str) -> bool:
    return url.lower().endswith(SUFFIXES)


def _glob(store: Store, folder: str, parts: list[str], skipped: Skipped) -> Iterator[Entry]:
    """Yield the objects and folders whose paths match a pattern, given as the parts of a path below a folder."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _recursive(store, folder, parts, skipped)
    elif glob.has_magic(part):
        for entry in store.level(folder, re.split(r"[*?\[]", part, maxsplit=1)[0]):
            if _matches_name(_last_name(entry.path), part):
                yield from _below(store, entry, rest, skipped)
    elif rest:
        yield from _glob(store, f"{folder}/{part}", rest, skipped)
    elif found := _found(store, f"{folder}/{part}"):
        yield found


def _below(store: Store, entry: Entry, rest: list[str], skipped: Skipped) -> Iterator[Entry]:
    if not rest:
        yield entry
    elif entry.is_folder:
        yield from _glob(store, entry.path, rest, skipped)


def _recursive(store: Store, folder: str, parts: list[str], skipped: Skipped) -> Iterator[Entry]:
    """Yield what matches a pattern that begins with ``**``: objects, and the images in folders that match."""
    if parts == ["**"]:
        yield Entry(folder, is_folder=True)  # which is then walked
        return
    start = len(folder.rstrip("/")) + 1
    for entry in _files(store, folder, skipped):
        names = entry.path[start:].split("/")
        if _fits(names, parts) or (_is_in_match(names, parts) and reason_to_skip(names[-1], is_folder=False) is None):
            yield entry


def _is_in_match(names: list[str], parts: list[str]) -> bool:
    return any(_fits(names[:end], parts) for end in range(1, len(names)))


def _fits(names: list[str], parts: list[str]) -> bool:
    """Whether the names in a path match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[start:], parts[1:]) for start in range(len(names) + 1))
    return bool(names) and _matches_name(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _matches_name(name: str, pattern: str) -> bool:
    """Whether a name matches a part of a pattern. As in a shell, a wildcard matches no leading dot."""
    return fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))
