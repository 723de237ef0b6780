"""List the images in an archive, as those in a folder are listed, and read them without unpacking anything.

A member's path is that of the archive, ``!/`` and its name in the archive: ``shard.tar!/cats/1.jpg``. Members are
listed in the order of the archive. Hidden members, folders that systems create, symbolic links, and members without the
suffix of an image are skipped and counted, as in folders; archives within archives are not opened. Names are never used
as paths of files.
"""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

from levit_cli.data.archives import tar
from levit_cli.data.archives import zip as zip_archive
from levit_cli.data.archives.compressed import DecompressedFile, decompressor_for
from levit_cli.data.archives.member import ArchiveError, Member, ReadAt
from levit_cli.data.input import Input
from levit_cli.data.skipped import SYSTEM_FOLDERS, Reason, Skipped, reason_to_skip
from levit_cli.errors import InputError, reason_of
from levit_cli.images.signatures import SIGNATURES
from levit_cli.system.files import open_regular, version_of
from levit_cli.system.text import count_noun

SEPARATOR = "!/"
HEAD_BYTES = 512


def members_of_file(path: str, skipped: Skipped) -> Iterator[Input]:
    """Yield the images in an archive on disk. Their content is loaded when it is needed, in any thread.

    An archive that cannot be opened is an input with an error.
    """
    try:
        file = open_regular(path)
    except InputError as error:
        yield Input(path, error)
        return
    with file:
        yield from members(path, file, skipped, _LocalFile(path, file))


def members(name: str, file: BinaryIO, skipped: Skipped, read_at: ReadAt | None = None) -> Iterator[Input]:
    """Yield the images in an archive.

    If the archive is cut or damaged, what is before the damage is listed, and then an input with an error that has the
    path of the archive. A file that is no archive, whatever its name, is one input without content.

    Args:
        name: the path or URL of the archive, which the records contain.
        file: the archive, at its start. A compressed tar archive need not be seekable.
        skipped: counts the members that are skipped.
        read_at: reads from the archive, in any thread. Without it, each image is read when it is listed.
    """
    selection, is_empty = _Selection(name, skipped), True
    try:
        archive = _open(file, name)
        if archive is None:
            yield Input(name)  # the content decides: it may be an image
            return
        read = read_at if read_at and archive.is_random_access else archive.read_now
        for member in archive.members:
            if selection.takes(member):
                is_empty = False
                path, loads_now = selection.path_of(member), read is not read_at
                is_needed = not loads_now or skipped.reads(path)
                yield _input(path, member, read, loads_now=loads_now) if is_needed else Input(path)
    except ArchiveError as error:
        yield Input(name, error.error)
    except OSError as error:
        yield Input(name, InputError("corrupt", f"the archive cannot be read: {reason_of(error)}"))
    else:
        if is_empty:
            skipped.add_empty(name)


class _Archive(NamedTuple):
    """An archive of which nothing was read.

    Args:
        read_now: reads the content of the member that was taken last.
        is_random_access: the offsets of members are those in the file.
    """

    members: Iterator[Member]
    read_now: ReadAt
    is_random_access: bool = True


def _open(file: BinaryIO, name: str) -> _Archive | None:
    """Identify an archive by its content; return None if it is none.

    Raises:
        ArchiveError: it is one that cannot be read.
    """
    head = file.read(HEAD_BYTES)
    if start := decompressor_for(head):
        file.seek(0)
        return _open_compressed(DecompressedFile(file, start))
    if zip_archive.is_zip(head):
        return _Archive(zip_archive.members(file), partial(_read_from, file))
    if tar.is_header(head):
        source = tar.ForwardReader(file, file)
        return _Archive(tar.members(source), source.read_at)
    if head and len(head) < HEAD_BYTES and name.lower().endswith(".tar") and not _is_image(head):
        raise ArchiveError(
            "truncated", f"the archive ends after {count_noun(len(head), 'byte')}, within its first header"
        )
    return None


def _open_compressed(file: DecompressedFile) -> _Archive:
    source = tar.ForwardReader(file)
    head = source.peek(HEAD_BYTES)
    if not tar.is_header(head):
        if not head:
            raise ArchiveError("empty_file", "the compressed data is empty (0 bytes)")
        raise ArchiveError("not_an_image", "this is compressed data, but not a tar archive")
    return _Archive(tar.members(source), source.read_at, is_random_access=False)


def _read_from(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _is_image(head: bytes) -> bool:
    return any(head[offset:].startswith(magic) for offset, magic, _, kind in SIGNATURES if kind != "not_an_image")


def _input(path: str, member: Member, read: ReadAt, *, loads_now: bool) -> Input:
    if not loads_now:
        return Input(path, load=partial(member.read, read), num_bytes=member.num_bytes)
    try:
        return Input(path, content=member.read(read))
    except InputError as error:
        return Input(path, load=partial(_fail, error))


def _fail(error: InputError) -> bytes:
    raise error


class _Selection:
    """Decides which members of an archive are images, and counts the others.

    The members of a folder that is skipped are usually adjacent; the folder is then counted once, as in a walk.
    """

    def __init__(self, archive: str, skipped: Skipped) -> None:
        self._archive, self._skipped = archive, skipped
        self._last_folder = ""

    def path_of(self, member: Member) -> str:
        name = member.name
        while name.startswith("./"):
            name = name[2:]
        return f"{self._archive}{SEPARATOR}{name}"

    def takes(self, member: Member) -> bool:
        if member.kind == "folder":
            return False
        folder, folder_reason = _skipped_folder(member.name)
        if folder_reason is not None:
            if folder != self._last_folder:
                self._skipped.add(f"{self._archive}{SEPARATOR}{folder}", folder_reason)
                self._last_folder = folder
            return False
        reason = reason_to_skip(member.name.rpartition("/")[2], is_folder=False)
        if reason != "hidden" and member.kind == "link":
            reason = "archived link"
        if reason is not None:
            self._skipped.add(self.path_of(member), reason)
        return reason is None


def _skipped_folder(name: str) -> tuple[str, Reason | None]:
    """Return the first folder in a member's name that a walk would skip, with all that is before it, and the reason."""
    start = 0
    while (end := name.find("/", start)) >= 0:
        part = name[start:end]
        if part in SYSTEM_FOLDERS:
            return name[:end], "system folder"
        if part.startswith(".") and part not in (".", ".."):
            return name[:end], "hidden"
        start = end + 1
    return "", None


class _LocalFile:
    """Reads from a file by its path. It opens the file each time, so that no descriptor stays open.

    Raises (when called):
        InputError: the file is not the same as before.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._path, self._version = path, version_of(file)

    def __call__(self, offset: int, count: int) -> bytes:
        with open_regular(self._path) as file:
            if version_of(file) != self._version:
                raise InputError("corrupt", "the archive was changed while it was read")
            file.seek(offset)
            return file.read(count)
