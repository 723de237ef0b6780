"""Worker processes return the same pixels as threads, and a crash or a hang fails only one image."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.data.inputs import Input
from levit_cli.errors import InputError, RefusedError
from levit_cli.images.transforms import transform_for
from levit_cli.predict.isolation import IsolatedReader
from levit_cli.predict.reader import Reader
from tests.support.faulty_decoders import SITECUSTOMIZE, ask_for, faulty_decoders
from tests.support.foreign_systems import linux_only, without_posix
from tests.support.sample_images import sample_image, write_images

TRANSFORM = transform_for("hf", (32, 48))
READER = Reader(TRANSFORM)
OTHERS: set[int] = set()  # children that this module did not start
pytestmark = linux_only  # the tests look at processes in /proc


@pytest.fixture
def isolated() -> Iterator[IsolatedReader]:
    reader = IsolatedReader(READER, timeout_s=60)
    yield reader
    reader.close()


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedReader]:
    """A reader with decoders that crash and hang on request, and a timeout of one second."""
    for name, value in faulty_decoders(tmp_path / "site").items():
        monkeypatch.setenv(name, value)
    reader = IsolatedReader(READER, timeout_s=1)
    yield reader
    reader.close()


def outcome(reader: Callable[[Input], NDArray[np.uint8]], item: Input) -> object:
    try:
        return reader(item).tolist()
    except InputError as error:
        return error.kind, error.message


def kind_of(reader: IsolatedReader, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        reader(Input(str(path)))
    return f"{caught.value.kind}: {caught.value.message}"


def test_pixels_and_errors_equal_those_of_a_reader_in_this_process(isolated: IsolatedReader, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 3)
    (tmp_path / "caf\udce9.png").write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:900])
    items = [Input(str(path)) for path in (*paths, tmp_path / "caf\udce9.png", tmp_path / "gone", tmp_path)]
    items.append(Input("-", content=paths[0].read_bytes()))
    for item in items:
        assert outcome(isolated, item) == outcome(READER, item)


def test_crash_and_hang_each_fail_one_image_only(faulty: IsolatedReader, tmp_path: Path) -> None:
    (intact,) = write_images(tmp_path, 1)
    ask_for("abort", tmp_path / "abort.jpg")
    ask_for("hang", tmp_path / "hang.jpg")
    expected = READER(Input(str(intact)))
    for fault, error in (
        ("abort", "decoder_crashed: the decoder was killed by SIGABRT"),
        ("hang", "timeout: not decoded within 1 s"),
    ):
        assert kind_of(faulty, tmp_path / f"{fault}.jpg") == error
        assert np.array_equal(faulty(Input(str(intact))), expected)


def test_killed_idle_worker_is_replaced(isolated: IsolatedReader, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    expected = isolated(Input(str(path)))
    (worker,) = children()
    os.kill(worker, signal.SIGKILL)
    while is_running(worker):
        time.sleep(0.01)
    assert np.array_equal(isolated(Input(str(path))), expected)


def test_each_thread_uses_its_own_worker(isolated: IsolatedReader, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 8)
    pixels: dict[Path, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}

    def read(own: list[Path]) -> None:
        pixels.update({path: isolated(Input(str(path))) for path in own})

    threads = [threading.Thread(target=read, args=(paths[start::2],)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(pixels[path], READER(Input(str(path)))) for path in paths)


def test_close_kills_all_workers_even_one_that_hangs(faulty: IsolatedReader, tmp_path: Path) -> None:
    ask_for("hang", tmp_path / "hang.jpg")
    reader = IsolatedReader(READER, timeout_s=60)
    ended = threading.Event()

    def read() -> None:
        with suppress(InputError, RefusedError):
            reader(Input(str(tmp_path / "hang.jpg")))
        ended.set()

    threading.Thread(target=read).start()
    while not children():
        time.sleep(0.01)
    reader.close()
    assert ended.wait(30)
    assert children() == []


ORPHAN = """
import sys, threading, time
from levit_cli.data.inputs import Input
from levit_cli.predict.isolation import IsolatedReader
from levit_cli.predict.reader import Reader
from levit_cli.images.transforms import transform_for
reader = IsolatedReader(Reader(transform_for("hf", (32, 48))), timeout_s=float(sys.argv[2]))
threading.Thread(target=reader, args=(Input(sys.argv[1]),), daemon=True).start()
while not reader._all:
    time.sleep(0.01)
print(next(iter(reader._all))._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("hangs", "has_posix"), [(False, True), (True, True), (True, False)])
def test_workers_exit_when_the_main_process_is_killed(tmp_path: Path, hangs: bool, has_posix: bool) -> None:
    site = tmp_path / "site"
    environment = {**os.environ, **(faulty_decoders(site) if has_posix else without_posix(site, SITECUSTOMIZE))}
    path = tmp_path / "a.jpg"
    if hangs:
        ask_for("hang", path)
    else:
        sample_image().save(path)
    command = [sys.executable, "-c", ORPHAN, str(path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 60
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_import_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_images(tmp_path, 1)
    for name in ("numpy", "PIL", "pickle", "struct", "levit_cli", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')\n")
    monkeypatch.chdir(tmp_path)
    reader = IsolatedReader(READER, timeout_s=60)
    assert reader(Input(str(path))).shape == (32, 48, 3)
    reader.close()
    assert not (tmp_path / "imported").exists()


@pytest.fixture(autouse=True)
def _others() -> Iterator[None]:
    """Ignore children that other tests started, such as the server of forked commands."""
    OTHERS.update(children())
    yield
    OTHERS.clear()


def children() -> list[int]:
    """Return the ids of the child processes that the test started."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return [process for process in found if process not in OTHERS]


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_error_of_a_process_that_cannot_start_names_every_option_that_needs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    reader = IsolatedReader(READER, timeout_s=60)
    with pytest.raises(RefusedError, match="--isolate, --resume and images that exceed --timeout need one"):
        reader(Input("x.jpg"))
