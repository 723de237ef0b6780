"""Counters and histograms in Prometheus' text format."""

import bisect
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, for each set of labels. Adding is thread-safe."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002
        self.name, self.help = name, help
        self._values: dict[Labels, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, count: float = 1, **labels: str) -> None:
        with self._lock:
            self._values[tuple(labels.items())] += count

    def value(self, **labels: str) -> float:
        return self._values.get(tuple(labels.items()), 0)

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, "counter")
        with self._lock:
            values = sorted(self._values.items())
        yield from (f"{self.name}{_labels(labels)} {value:.15g}" for labels, value in values)


class Histogram:
    """The distribution of a quantity. Observing is thread-safe."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:  # noqa: A002
        self.name, self.help, self._bounds = name, help, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.help, "histogram")
        with self._lock:
            counts, total = [*self._counts], self._sum
        below = 0
        for bound, count in zip([*map("{:g}".format, self._bounds), "+Inf"], counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {total:.9g}"
        yield f"{self.name}_count {below}"


class Metrics:
    """What the server measures of itself."""

    def __init__(self) -> None:
        self.requests = Counter("levit_requests_total", "Answered requests, by route and status code.")
        self.images = Counter("levit_images_total", "Images, by outcome: ok or the kind of the error.")
        self.aborted = Counter("levit_aborted_requests_total", "Requests whose client left before the answer.")
        self.dropped = Counter("levit_dropped_connections_total", "Connections that timed out, by reason.")
        self.reloads = Counter("levit_model_reloads_total", "Loads of a new model, by outcome.")
        self.seconds = Histogram("levit_request_seconds", "From a complete request to its answer.", SECONDS)
        self.decode_s = Histogram("levit_decode_seconds", "Decoding and preprocessing of one image.", SECONDS)
        self.network_s = Histogram("levit_network_seconds", "The network, of one batch.", SECONDS)
        self.batch_sizes = Histogram("levit_batch_size", "Images in a batch.", SIZES)
        self._started = time.time()

    def text(self, gauges: Mapping[str, tuple[str, float]], info: Mapping[str, str]) -> str:
        """Return the metrics.

        Args:
            gauges: further values, with their help, by name.
            info: labels that describe the model.
        """
        lines = [*_head("levit_model_info", "The model; always 1.", "gauge")]
        lines.append(f"levit_model_info{_labels(tuple(info.items()))} 1")
        started = ("When the process started, in seconds since 1970.", self._started)
        for name, (help_text, value) in {**gauges, "process_start_time_seconds": started}.items():
            lines += [*_head(name, help_text, "gauge"), f"{name} {value:.15g}"]
        for metric in vars(self).values():
            if isinstance(metric, (Counter, Histogram)):
                lines += metric.lines()
        return "\n".join(lines) + "\n"


def _head(name: str, help_text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
