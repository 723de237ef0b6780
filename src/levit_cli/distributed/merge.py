"""``levit merge``: join the outputs of all shards of a run, after proving that they are complete and disjoint.

The description of each output says where its inputs are in the list of all inputs. So the records are merged into the
order of that list, and the result has the bytes that one run without shards would have written. The shard of each path
and the hash of all paths in that order are computed again from the records.
"""

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from pathlib import Path
from typing import NamedTuple

from levit_cli.choices import Format
from levit_cli.data.remote.names import url_of, without_secrets
from levit_cli.data.shards import ListDigest, shard_of
from levit_cli.distributed.shard_files import ShardFile
from levit_cli.errors import UsageError
from levit_cli.predict.resume.fingerprint import differences, store_fingerprint
from levit_cli.predict.shard_meta import ShardMeta, hash_of_file, read_meta, unpack
from levit_cli.predict.writers import BY_SUFFIX
from levit_cli.system.atomic import Replacement
from levit_cli.system.output import choose_format, is_also_an_input, require_free
from levit_cli.system.progress import Log
from levit_cli.system.signals import deferred_signals
from levit_cli.system.text import count_noun

MAX_NAMED = 5
NOTHING_WRITTEN = "nothing was written"


def merge_shards(files: Sequence[Path], output: Path, *, overwrite: bool, quiet: bool, log: Log) -> None:
    """Merge the outputs of all shards of a run into one file.

    Raises:
        UsageError: the files are not exactly the outputs of all shards of one run, or the output exists.
        OutputError: the output cannot be written.
    """
    if (url := url_of(output)) is not None:
        hint = "name a file on this machine, and copy it afterwards"
        raise UsageError(f"Cannot write {without_secrets(url)}", why="levit merge writes local files only", hint=hint)
    require_free(output, files, overwrite=overwrite)
    if any(file.resolve() == output.resolve() for file in files):
        raise is_also_an_input(str(output))
    metas = [_meta_of(file) for file in files]
    _require_one_run(files, metas)
    _require_all_shards(files, metas)
    format: Format = metas[0].settings["format"]
    if choose_format(None, output, BY_SUFFIX, format, hint=f"use the suffix .{format}") != format:
        why = f"they are {format}, and levit merge converts nothing"
        raise UsageError(f"{output} has another format than its shards", why=why, hint=f"use the suffix .{format}")
    shards = [ShardFile(file, format) for file in files]
    with _replacement(output) as replacement:
        _write(shards, metas, replacement, format)
        store_fingerprint(replacement.descriptor, metas[0].settings)
    if not quiet:
        log(f"{count_noun(metas[0].listed, 'record')} of {count_noun(len(files), 'shard')}")


def _meta_of(file: Path) -> ShardMeta:
    """Return the description of a shard's output, after the checks that need no record.

    Raises:
        UsageError: the file is missing, or is not the output that was described.
    """
    if (url := url_of(file)) is not None:
        hint = "copy it and its .meta.json first"
        raise UsageError(f"Cannot merge {without_secrets(url)}", why="it is not on this machine", hint=hint)
    if not file.is_file():
        raise UsageError(f"Cannot read {file}", why="it is not a file" if file.exists() else "it does not exist")
    return read_meta(file)


def _require_one_run(files: Sequence[Path], metas: Sequence[ShardMeta]) -> None:
    """Check that all outputs are of one run: the same number of shards, model and settings, and the same inputs."""
    first = metas[0]
    for file, meta in zip(files[1:], metas[1:], strict=True):
        if meta.shards != first.shards:
            why = f"{files[0]} is shard {first.as_shard}, {file} is shard {meta.as_shard}"
            raise UsageError("The files are shards of different runs", why=why, hint=NOTHING_WRITTEN)
        if differing := differences(first.settings, meta.settings):
            why = f"compared with {files[0]}, in {file} " + ", ".join(differing)
            raise UsageError("The shards were written with different settings", why=why, hint=NOTHING_WRITTEN)
        if (meta.listed, meta.list_sha256) != (first.listed, first.list_sha256):
            why = f"{files[0]} is a part of {count_noun(first.listed, 'input')}, {file} of "
            why += f"{meta.listed:,}" if meta.listed != first.listed else "others, or in another order"
            hint = "the inputs changed between the runs; run the older shards again with --resume"
            raise UsageError("The shards divide different inputs", why=why, hint=hint)


def _require_all_shards(files: Sequence[Path], metas: Sequence[ShardMeta]) -> None:
    """Check that each shard is there once."""
    numbers = Counter(meta.shard for meta in metas)
    if twice := sorted(number for number, times in numbers.items() if times > 1):
        names = [str(file) for file, meta in zip(files, metas, strict=True) if meta.shard == twice[0]]
        why = f"shard {twice[0]}/{metas[0].shards} is in {' and '.join(names[:2])}"
        raise UsageError("The shards overlap", why=why, hint=NOTHING_WRITTEN)
    missing = [number for number in range(1, metas[0].shards + 1) if number not in numbers]
    if missing:
        more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
        names = [f"{number}/{metas[0].shards}" for number in missing[:MAX_NAMED]]
        why = f"{'shards' if len(missing) > 1 else 'shard'} {', '.join(names)}{more} missing"
        raise UsageError("The shards are incomplete", why=why, hint=NOTHING_WRITTEN)


@contextmanager
def _replacement(output: Path) -> Iterator[Replacement]:
    """Yield a temporary file that replaces the output at the end of the block, or is removed after an exception."""
    replacement = Replacement(output.resolve())
    try:
        yield replacement
        with deferred_signals():
            replacement.sync()
            replacement.close()
            replacement.commit()
    except BaseException:
        replacement.discard()
        raise


class _Position(NamedTuple):
    """The number of an input in the list of all inputs, and its shard's place among the files."""

    number: int
    file: int


def _write(shards: Sequence[ShardFile], metas: Sequence[ShardMeta], output: Replacement, format: Format) -> None:
    if format != "parquet":
        output.write(_common_header(shards))
        for record in _in_order(shards, metas):
            output.write(record)
        return
    from levit_cli.predict.parquet_output import convert, metadata_in

    with tempfile.TemporaryFile() as journal:
        for record in _in_order(shards, metas):
            journal.write(record)
        convert(journal, output.write, metadata_in(shards[0].path))


def _common_header(shards: Sequence[ShardFile]) -> bytes:
    for shard in shards[1:]:
        if shard.header != shards[0].header:
            why = f"{shard.path} begins with another line than {shards[0].path}"
            raise UsageError("The shards have different columns", why=why, hint=NOTHING_WRITTEN)
    return shards[0].header


def _in_order(shards: Sequence[ShardFile], metas: Sequence[ShardMeta]) -> Iterator[bytes]:
    """Yield all records in the order of the inputs, and check them.

    Raises:
        UsageError: a file does not contain exactly the inputs of its shard.
    """
    records = [_checked(shard, meta) for shard, meta in zip(shards, metas, strict=True)]
    digest = ListDigest()
    for expected, (number, file) in enumerate(_positions(metas)):
        if number != expected:
            what = "twice" if number < expected else "in no shard"
            raise UsageError("The shards are not disjoint and complete", why=f"input {min(number, expected)} is {what}")
        path, record = next(records[file])
        digest.add(path)
        yield record
    for rest in records:
        next(rest, None)  # the checks at the end of each file
    if (digest.num_paths, digest.hex) != (metas[0].listed, metas[0].list_sha256):
        why = f"their {count_noun(digest.num_paths, 'record')} are not those of the listed inputs"
        raise UsageError("The shards are incomplete", why=why, hint=NOTHING_WRITTEN)


def _positions(metas: Sequence[ShardMeta]) -> Iterator[_Position]:
    def of(file: int, positions: "array[int]") -> Iterator[_Position]:
        return (_Position(number, file) for number in positions)

    return merge(*(of(file, unpack(meta.positions)) for file, meta in enumerate(metas)))


def _checked(shard: ShardFile, meta: ShardMeta) -> Iterator[tuple[bytes, bytes]]:
    """Yield the path and the record of each input of a shard.

    Raises:
        UsageError: a record belongs to another shard, or the file does not have as many records as described.
    """
    count = 0
    for path, record in shard.records():
        count += 1
        if shard_of(path, meta.shards) != meta.shard:
            name = path.decode("utf-8", "backslashreplace")
            why = f"record {count}, of {name}, belongs to shard {shard_of(path, meta.shards)}/{meta.shards}"
            raise UsageError(f"{shard.path} is not only shard {meta.as_shard}", why=why, hint=NOTHING_WRITTEN)
        if count <= meta.inputs:
            yield path, record
    if count != meta.inputs:
        what = "is incomplete" if count < meta.inputs else "has too many records"
        why = f"it has {count_noun(count, 'record')}, but shard {meta.as_shard} has {count_noun(meta.inputs, 'input')}"
        raise UsageError(f"{shard.path} {what}", why=why, hint="run the shard again with --resume")
    if hash_of_file(shard.path) != meta.output_sha256:
        why = "it is not the file that its .meta.json describes"
        raise UsageError(f"{shard.path} was changed after its run", why=why, hint="run the shard again")
