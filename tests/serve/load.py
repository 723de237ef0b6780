"""Check `levit serve` under load: own answers, and no lost request at SIGTERM.

python -m tests.serve.load answers --requests 20000
python -m tests.serve.load stops --stops 50
"""

import argparse
import http.client
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.serve.server import Server, form, serving
from tests.support.random_weights import write_folder
from tests.support.sample_images import write_images

NUM_IMAGES, NUM_CLIENTS = 50, 16
WARM_ANSWERS = 40  # before the server is told to stop


class Outcome(NamedTuple):
    """What the clients saw while a server was stopped."""

    answered: int
    torn: int  # answers that began and did not end
    unanswered: int  # requests that were sent in full to a server that had not been told to stop
    exit_code: int
    seconds: float  # from the signal to the exit


def wrong_answers(server: Server, images: Sequence[bytes], expected: Sequence[object], requests: int) -> Counter[str]:
    """Send many requests from several clients, and count the answers: ``right``, ``wrong`` or the status code."""
    numbers = iter(range(requests))
    lock, counts = threading.Lock(), Counter[str]()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                connection.close()
                return
            kind = _ask(connection, images, expected, number * 7 + client)
            with lock:
                counts[kind] += 1

    threads = [threading.Thread(target=work, args=(client,)) for client in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def _ask(
    connection: http.client.HTTPConnection, images: Sequence[bytes], expected: Sequence[object], number: int
) -> str:
    """Send one image, or now and then a form of three, and compare the answer."""
    chosen = [(number + step * 11) % len(images) for step in range(3 if number % 10 == 0 else 1)]
    if len(chosen) == 1:
        connection.request("POST", "/predict", images[chosen[0]])
    else:
        body, content_type = form([("-", images[index]) for index in chosen])
        connection.request("POST", "/predict", body, {"Content-Type": content_type})
    response = connection.getresponse()
    got = json.loads(response.read())
    if response.status != 200:
        return str(response.status)
    wanted = [expected[index] for index in chosen]
    return "right" if (got if len(chosen) > 1 else [got]) == wanted else "wrong"


def stop_under_load(server: Server, images: Sequence[bytes], seconds: float = 0.1) -> Outcome:
    """Send requests from several clients, half of them on connections of their own, and then SIGTERM."""
    counts, lock, told_to_stop = Counter[str](), threading.Lock(), threading.Event()

    def work(client: int) -> None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        for number in range(1_000_000):
            if client % 2:
                connection.close()
            was_told = told_to_stop.is_set()
            kind = _attempt(connection, images[(client + number * 7) % len(images)])
            with lock:
                counts[kind if kind != "unanswered" or not was_told else "refused"] += 1
            if kind != "answered":
                return

    threads = [threading.Thread(target=work, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    while counts["answered"] < WARM_ANSWERS and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    time.sleep(seconds)
    start = time.monotonic()
    told_to_stop.set()
    exit_code = server.stop(signal.SIGTERM, 60)
    stopped = time.monotonic()
    for thread in threads:
        thread.join()
    return Outcome(counts["answered"], counts["torn"], counts["unanswered"], exit_code, stopped - start)


def _attempt(connection: http.client.HTTPConnection, image: bytes) -> str:
    try:
        connection.request("POST", "/predict", image)
    except OSError:
        return "refused"  # not sent in full
    try:
        response = connection.getresponse()
    except (OSError, http.client.HTTPException):
        return "unanswered"
    try:
        content = response.read()
    except (OSError, http.client.HTTPException):
        return "torn"
    return "answered" if response.status == 200 and json.loads(content)["status"] == "ok" else "torn"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["answers", "stops"])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--stops", type=int, default=50)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        model = write_folder(Path(temporary) / "model")
        images = [path.read_bytes() for path in write_images(Path(temporary) / "images", NUM_IMAGES)]
        if arguments.what == "answers":
            with serving(model, "--precision", "fp32") as server:
                expected = [server.post(image).json for image in images]
                start = time.monotonic()
                counts = wrong_answers(server, images, expected, arguments.requests)
            print(f"{dict(counts)} in {time.monotonic() - start:.1f} s")
            raise SystemExit(counts != {"right": arguments.requests})
        lost = 0
        for number in range(arguments.stops):
            with serving(model) as server:
                outcome = stop_under_load(server, images)
            print(number + 1, outcome, flush=True)
            lost += outcome.torn + outcome.unanswered + (outcome.exit_code != 0)
        print(f"{arguments.stops} stops, {lost} lost")
        raise SystemExit(lost != 0)


if __name__ == "__main__":
    main()
