"""Measure ``levit serve`` under load, beside servers of transformers' pipeline and beside ``levit predict``.

python -m benchmarks.serve compare FOLDER [--model MODEL | --variant levit-128S] [--rounds 3] [--seconds 10]
python -m benchmarks.serve overload FOLDER    # an open loop at three times the capacity
python -m benchmarks.serve start FOLDER       # from the start to readiness, beside a cold prediction
python -m benchmarks.serve soak FOLDER        # half an hour under load: memory and descriptors

The clients run on the same machine and take a part of its CPU time. The servers are started and measured in turns, one
at a time. The pipeline reads the same Hugging Face folder and the same photos.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import machine, random_model, versions
from benchmarks.serve_clients import Load, closed_loop, encoded, open_loop
from levit_cli.data.inputs import walk

LEVIT = str(Path(sys.executable).with_name("levit"))
CLIENTS = (1, 8)
PEERS = ("litserve", "fastapi")
QUEUE, BATCH = 64, 16
READY_S, WARM_S, COMPILE_S = 120.0, 3.0, 10.0
MIB = 1 << 20
MAX_GROWTH = 1.05  # of the memory, in the second half of a soak


def photos_in(folder: Path) -> list[bytes]:
    return [Path(item.path).read_bytes() for item in walk(str(folder))][:1000]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(name: str, model: str, port: int, *options: str) -> list[str]:
    if name == "levit":
        return [LEVIT, "serve", "-m", model, "--port", str(port), *options]
    return [sys.executable, "-m", f"benchmarks.serve_{name}", model, str(port)]


@contextmanager
def running(name: str, model: str, photo: bytes, *options: str) -> Iterator[tuple[int, int]]:
    """Run a server until the end of the block; yield its port and process id once it has classified a photo."""
    port = free_port()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen(
        command_of(name, model, port, *options),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        _wait_until_ready(port, encoded(photo, as_form=name == "litserve"))
        yield port, process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # what is left of the server's processes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(port: int, request: bytes) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if asyncio.run(closed_loop(port, [request], 1, 0.01)).count():
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        time.sleep(0.1)
    raise SystemExit(f"no server on port {port}")


def measure_server(name: str, model: str, photos: Sequence[bytes], seconds: float) -> dict[int, Load]:
    """Return the load of each number of clients."""
    requests = [encoded(photo, as_form=name == "litserve") for photo in photos]
    loads = {}
    with running(name, model, photos[0]) as (port, pid):
        asyncio.run(closed_loop(port, requests, max(CLIENTS), WARM_S))
        for clients in CLIENTS:
            before = cpu_s_of(pid)
            loads[clients] = asyncio.run(closed_loop(port, requests, clients, seconds))
            loads[clients].cpu_s = cpu_s_of(pid) - before
    return loads


def measure_predict(model: str, folder: Path, count: int) -> tuple[float, float]:
    """Return the images per second that ``levit predict`` reports for the photos, repeated, and its CPU ms per image.

    The CPU time includes the start.
    """
    paths = [item.path for item in walk(str(folder))][:1000]
    repeated = (paths * (count // len(paths) + 1))[:count]
    command = [LEVIT, "predict", "-m", model, "--files-from", "-", "-0", "-f", "jsonl"]
    listed = b"".join(os.fsencode(os.path.abspath(path)) + b"\0" for path in repeated)
    before = os.times()
    done = subprocess.run(command, input=listed, capture_output=True, check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    found = re.search(r"\(([\d.]+)/s\)", done.stderr.decode())
    assert found
    return float(found[1]), 1000 * cpu_s / count


def compare(options: argparse.Namespace, model: str, photos: list[bytes]) -> None:
    """Print the table of the servers in turns."""
    names = ("levit", *PEERS)
    loads: dict[str, list[dict[int, Load]]] = {name: [] for name in names}
    predicted, predicted_ms = [], []
    for _ in range(options.rounds):
        rate, cpu_ms = measure_predict(model, options.folder, options.predicted)
        predicted.append(rate)
        predicted_ms.append(cpu_ms)
        for name in names:
            loads[name].append(measure_server(name, model, photos, options.seconds))
    print("| server | clients | requests/s | p50 ms | p99 ms | CPU ms/request |\n|---|---|---|---|---|---|")
    for name in names:
        for clients in CLIENTS:
            of = partial(_median, [load[clients] for load in loads[name]])
            percentiles = (of(partial(Load.percentile_ms, percent=percent)) for percent in (50, 99))
            columns = (of(lambda load: load.per_s), *percentiles, of(lambda load: load.cpu_ms))
            print(f"| {name} | {clients} | " + " | ".join(f"{value:.1f}" for value in columns) + " |")
    print(f"| levit predict | | {median(predicted):.1f} images/s | | | {median(predicted_ms):.1f} |\n")

    def ratio(ours: Callable[[dict[int, Load]], float], theirs: Sequence[float]) -> str:
        values = [ours(load) / other for load, other in zip(loads["levit"], theirs, strict=True)]
        return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    lit, fast = loads["litserve"], loads["fastapi"]
    print("8 clients, requests/s, levit / litserve:", ratio(lambda it: it[8].per_s, [it[8].per_s for it in lit]))
    slow = [it[8].percentile_ms(99) for it in lit]
    print("8 clients, p99, levit / litserve:", ratio(lambda it: it[8].percentile_ms(99), slow))
    print(
        "1 client, p50, levit / fastapi:",
        ratio(lambda it: it[1].percentile_ms(50), [it[1].percentile_ms(50) for it in fast]),
    )
    print("8 clients, requests/s, levit serve / levit predict:", ratio(lambda it: it[8].per_s, predicted))


def _median(loads: Sequence[Load], value: Callable[[Load], float]) -> float:
    return median(map(value, loads))


def overload(options: argparse.Namespace, model: str, photos: list[bytes]) -> None:
    """Measure the capacity with a closed loop, then send three times as much."""
    requests = [encoded(photo, as_form=False) for photo in photos]
    with running("levit", model, photos[0], "--queue", str(QUEUE)) as (port, pid):
        asyncio.run(closed_loop(port, requests, 8, WARM_S))
        capacity = asyncio.run(closed_loop(port, requests, 8, options.seconds)).per_s
        asyncio.run(open_loop(port, requests, 3 * capacity, COMPILE_S))  # networks for more images are compiled
        before = memory_of(pid)
        load = asyncio.run(open_loop(port, requests, 3 * capacity, options.overload_seconds))
        after = memory_of(pid)
    bound_ms = 1000 * 1.5 * (QUEUE + 2 * BATCH) / capacity
    print(f"capacity {capacity:.1f} requests/s; sent {3 * capacity:.1f}/s for {options.overload_seconds:g} s")
    print(f"accepted {load.count()} ({load.per_s:.1f}/s), refused {load.count(429)}, other {load.errors}")
    print(
        f"accepted: p50 {load.percentile_ms(50):.0f} ms, p99 {load.percentile_ms(99):.0f} ms; bound {bound_ms:.0f} ms"
    )
    print(f"refused: p50 {load.percentile_ms(50, 429):.1f} ms, p99 {load.percentile_ms(99, 429):.1f} ms; bound 50 ms")
    print(f"memory {before / MIB:.0f} MiB before, {after / MIB:.0f} MiB after")


def start(options: argparse.Namespace, model: str, _: list[bytes]) -> None:
    """Compare the time until a server is ready with that of a cold prediction, both with warm caches."""
    photo = next(item.path for item in walk(str(options.folder)))
    ratios = []
    for number in range(options.rounds + 1):
        begin = time.perf_counter()
        subprocess.run([LEVIT, "predict", "-m", model, photo, "-f", "jsonl", "-q"], capture_output=True, check=True)
        predicted = time.perf_counter() - begin
        begin = time.perf_counter()
        process = subprocess.Popen(command_of("levit", model, 0), stderr=subprocess.PIPE)
        assert process.stderr
        while b"Ready" not in process.stderr.readline():
            pass
        ready = time.perf_counter() - begin
        process.terminate()
        process.communicate()
        if number:  # the first one fills the caches
            ratios.append(ready / predicted)
            print(f"predict {predicted:.2f} s, ready {ready:.2f} s")
    print(f"ready / predict: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def family_of(pid: int) -> list[int]:
    """Return a process and all that it started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [pid, *(member for child in children for member in family_of(child))]


def cpu_s_of(pid: int) -> float:
    """Return the user and system seconds of a process and all that it started."""
    stats = [Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split() for member in family_of(pid)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process and all that it started."""
    pages = sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in family_of(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def soak(options: argparse.Namespace, model: str, photos: list[bytes]) -> None:
    """Run under load for a long time, and end with exit code 1 if memory or descriptors grow."""
    requests = [encoded(photo, as_form=False) for photo in photos]
    requests += [encoded(b"no image", as_form=False), encoded(photos[0][:500], as_form=True)]
    samples: list[tuple[int, int]] = []
    end = time.monotonic() + 60 * options.minutes
    with running("levit", model, photos[0]) as (port, pid):
        while time.monotonic() < end:
            load = asyncio.run(closed_loop(port, requests, 8, min(60.0, max(1.0, end - time.monotonic()))))
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).close()
            samples.append((memory_of(pid), len(os.listdir(f"/proc/{pid}/fd"))))
            statuses = {status: len(times) for status, times in load.latencies_s.items()}
            memory, files = samples[-1]
            print(f"{load.per_s:.1f}/s {statuses}, {memory / MIB:.0f} MiB, {files} descriptors", flush=True)
    half = len(samples) // 2
    growth = max(memory for memory, _ in samples[half:]) / max(memory for memory, _ in samples[: half or 1])
    more = samples[-1][1] - samples[min(half, 1)][1]
    is_flat = growth <= MAX_GROWTH and more <= 2
    print(f"memory of the second half / first half {growth:.3f}, descriptors {more:+d}")
    print("flat" if is_flat else "it grows")
    raise SystemExit(not is_flat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {"compare": compare, "overload": overload, "start": start, "soak": soak}
    parser.add_argument("mode", choices=modes)
    parser.add_argument("folder", type=Path, help="folder of photos")
    parser.add_argument("--model", help="a Hugging Face folder; by default random weights")
    parser.add_argument("--variant", default="levit-128S", help="the variant with random weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each closed loop")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--predicted", type=int, default=1000, help="images that levit predict classifies")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        model = options.model or random_model(options.variant, f"{temporary}/model")
        modes[options.mode](options, model, photos_in(options.folder))
    if options.mode == "compare":
        print(f"\n{machine()}; {versions('litserve', 'fastapi', 'transformers', 'torch', 'openvino')}")


if __name__ == "__main__":
    main()
