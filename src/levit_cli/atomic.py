"""Files that are always either the old one or the new one: written beside, synced, renamed over."""

import os
import tempfile
from pathlib import Path

from levit_cli.errors import OutputError


def replace_bytes(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step, or leave what stands there.

    Raises:
        OutputError: disk full, read-only, folder missing.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".levit-", suffix=".part")
    except OSError as error:
        raise OutputError(f"Cannot write {path}", why=error.strerror or str(error)) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}", why=error.strerror or str(error)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync_folder(path.parent)


def replace_text(path: Path, content: str) -> None:
    """The same for UTF-8 text."""
    replace_bytes(path, content.encode())


def _umask() -> int:
    mask = os.umask(0o022)  # there is no way to only look
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; not every system lets a folder be synced, and then it is as good as it gets."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
