"""Write an output to object storage: to a local file first, which is uploaded when it is complete.

A store cannot append to an object. The records are therefore written to a file in the cache folder, where a killed run
leaves them and ``--resume`` finds them. Under the name of the output, nothing appears before the upload is complete.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from levit_cli.data.remote.names import without_secrets
from levit_cli.data.remote.retry import RemoteError
from levit_cli.data.remote.stores import Store, open_store
from levit_cli.errors import OutputError, UsageError
from levit_cli.predict.shard_meta import META_SUFFIX, meta_path
from levit_cli.system import locking
from levit_cli.system.atomic import writing
from levit_cli.system.cache import cache_folder
from levit_cli.system.output import is_also_an_input
from levit_cli.system.progress import Log


@contextmanager
def local_copy(url: str, inputs: Iterable[str], *, overwrite: bool, resume: bool, log: Log) -> Iterator[Path]:
    """Yield the path of a local file for an output, and upload the file at the end of the block.

    If the block raises an exception, nothing is uploaded, and the file is kept.

    Args:
        url: the output, such as ``s3://bucket/results.jsonl``.
        inputs: the inputs, none of which may be the output.
        resume: begin with the file that an earlier run left, or else with the object.

    Raises:
        UsageError: the output exists, or it is one of the inputs.
        OutputError: the store does not accept the output, or the upload failed.
    """
    shown = without_secrets(url)
    if url.rstrip("/") in {name.rstrip("/") for name in inputs}:
        raise is_also_an_input(shown)
    with _storing(shown):
        store, path = open_store(url)
    name = path.rpartition("/")[2]
    if not name or url.endswith("/"):
        raise OutputError(f"Cannot write {shown}", why="it names a folder", hint="choose the name of a file")
    local = _folder_of(url) / name
    is_fetched = False
    try:
        _require_no_leftover(local, shown, may_exist=overwrite or resume)
        with _storing(shown):
            is_fetched = _prepare(store, path, local, shown, overwrite=overwrite, resume=resume)
        yield local
    except BaseException as error:
        if is_fetched and isinstance(error, UsageError):
            local.unlink(missing_ok=True)  # refused, so it is equal to the object, which may change later
        elif local.exists():
            log(f"Nothing was written to {shown}; the records so far are in {local}.")
        with suppress(OSError):  # unless it is empty
            local.parent.rmdir()
        raise
    with _storing(shown, f"the results are kept in {local}; the same command with --resume uploads them"):
        store.upload(str(local), path)
        if meta_path(local).exists():  # of a shard
            store.upload(str(meta_path(local)), path + META_SUFFIX)
    shutil.rmtree(local.parent, ignore_errors=True)


@contextmanager
def _storing(shown: str, hint: str = "check the name, the credentials and the network") -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise OutputError(f"Cannot write {shown}", why=str(error), hint=hint) from None


def _folder_of(url: str) -> Path:
    """Return the folder for the local copy of an output; it depends on the URL only, so that a later run finds it."""
    name = blake2b(os.fsencode(url), digest_size=8).hexdigest()
    folder = cache_folder() / "outputs" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home folder, or a read-only one
        folder = Path(tempfile.gettempdir()) / f"levit-outputs-{name}"
        with writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _require_no_leftover(local: Path, shown: str, *, may_exist: bool) -> None:
    """Refuse to lose the records of an earlier run that was interrupted."""
    leftovers = [*local.parent.iterdir()]
    if any(locking.is_locked(path) for path in leftovers):
        hint = "wait until it ends, or choose another name"
        raise OutputError(f"Cannot write {shown}", why=locking.IN_USE, hint=hint)
    if leftovers and not may_exist:
        raise UsageError(
            f"An earlier run for {shown} did not finish",
            why=f"its records are in {local}",
            hint="--resume continues it, --overwrite starts again",
        )


def _prepare(store: Store, path: str, local: Path, shown: str, *, overwrite: bool, resume: bool) -> bool:
    """Check that the output may be written, and fetch the object that is to be continued. Return whether it was."""
    found = store.find(path)
    exists = found is not None and not found.is_folder
    if exists and not overwrite and not resume:
        hint = "--resume continues it, --overwrite replaces it"
        raise UsageError(f"{shown} exists", why="it was not touched", hint=hint)
    store.require_writable(path)
    is_needed = exists and resume and not any(local.parent.iterdir())
    if is_needed:
        with writing(local):
            store.download(path, str(local))
    return is_needed
