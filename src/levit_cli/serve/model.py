"""A loaded model: it decodes images and computes batches of the sizes for which a network is compiled."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from levit_cli.checkpoints import Checkpoint
from levit_cli.data.input import STDIN, Input, is_url
from levit_cli.engines import EngineSpec, LevitEngine
from levit_cli.errors import InputError, RefusedError
from levit_cli.predict.model import ModelOptions, choose_threshold, load_model, make_prediction_engine
from levit_cli.predict.pipeline import logits_of
from levit_cli.predict.prefetch import DecodeOptions
from levit_cli.predict.reader import Reader
from levit_cli.system.progress import Log, silent

if TYPE_CHECKING:
    from levit_cli.predict.isolation import IsolatedReader

WARM_WORKERS = 4  # as many processes are started before they are needed

Output = Literal["logits", "features"]
Pixels = NDArray[np.uint8]
Network = Callable[[Pixels], NDArray[np.float32]]


class Networks:
    """The networks of one output, one for each batch size that is a power of two, so that no batch is padded.

    The one that computes a single image on all cores is there from the start. The others compute on one core each. They
    are compiled in the background as soon as they are wanted, and serve later batches.

    Args:
        single: for one image, on all cores.
        compile_for: compiles a network for a batch size, for one core.
    """

    def __init__(self, single: Network, compile_for: Callable[[int], Network], max_batch: int) -> None:
        self._single, self._networks = single, dict[int, Network]()
        self._compile_for, self._max_batch = compile_for, max_batch
        self._is_compiling = False
        self._lock = threading.Lock()

    def batch_size(self, num_images: int) -> int:
        """Return how many of the images form the next batch."""
        wanted = 1 << (min(num_images, self._max_batch).bit_length() - 1)
        if wanted > 1 and wanted not in self._networks:
            self._start_compiling(wanted)
        return max(size for size in (1, *[*self._networks]) if size <= wanted)

    def network(self, size: int, *, is_alone: bool) -> Network:
        """Return the network for a batch.

        Args:
            is_alone: whether no other batch is computed now.
        """
        if size > 1 or (not is_alone and size in self._networks):
            return self._networks[size]
        if not is_alone:
            self._start_compiling(size)
        return self._single

    def compile_all(self, sizes: Sequence[int]) -> None:
        """Compile networks now, unless they are compiled."""
        for size in sizes:
            if size not in self._networks:
                self._networks[size] = self._compile_for(size)

    @property
    def sizes(self) -> list[int]:
        return sorted(self._networks)

    def _start_compiling(self, size: int) -> None:
        with self._lock:
            if self._is_compiling:
                return
            self._is_compiling = True
        threading.Thread(target=self._compile, args=(size,), name="compile", daemon=True).start()

    def _compile(self, size: int) -> None:
        try:
            self.compile_all([size])
        finally:
            self._is_compiling = False


class AnySize:
    """A network that takes batches of any size up to a limit, as those of torch do."""

    def __init__(self, network: Network, max_batch: int) -> None:
        self._network, self._max_batch = network, max_batch
        self.sizes = [max_batch]

    def batch_size(self, num_images: int) -> int:
        return min(num_images, self._max_batch)

    def network(self, size: int, *, is_alone: bool) -> Network:  # noqa: ARG002
        return self._network

    def compile_all(self, sizes: Sequence[int]) -> None:
        pass


class ServedModel:
    """A model that is ready to classify.

    Args:
        single: the engine for one image.
        name: what clients may know of the model's origin.
        min_prob: the threshold from which on predictions are accepted; None for none.
        isolated: decodes in processes; None to decode in the calling thread.
        timeout_s: wall-clock limit for decoding one image.
        max_batch: images per batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: Reader,
        single: LevitEngine,
        name: str,
        min_prob: float | None,
        isolated: "IsolatedReader | None",
        timeout_s: float,
        max_batch: int,
    ) -> None:
        self.checkpoint, self._reader, self._timeout_s = checkpoint, reader, timeout_s
        self.name, self.min_prob = name, min_prob
        self.spec = single.spec
        self._single = single
        self._isolated = isolated
        self._num_users, self._is_retired = 0, False
        self._lock = threading.Lock()
        self._networks: dict[Output, Networks | AnySize] = {
            "logits": self._networks_of(single.__call__, 0, max_batch),
            "features": self._networks_of(single.features, 1, max_batch),
        }

    def read(self, item: Input) -> Pixels:
        """Return the preprocessed pixels of an image.

        Raises:
            InputError: it cannot be read.
        """
        return (self._isolated or self._reader)(item)

    @property
    def is_isolated(self) -> bool:
        """Whether images are decoded in processes."""
        return self._isolated is not None

    def isolate(self) -> None:
        """Decode further images in processes."""
        with self._lock:
            if self._isolated is None:
                self._isolated = _isolated_reader(self._reader, self._timeout_s)

    def batch_size(self, output: Output, num_images: int) -> int:
        """Return how many of the images that wait form the next batch."""
        return self._networks[output].batch_size(num_images)

    def run(
        self, output: Output, pixels: Sequence[Pixels], *, is_alone: bool = True
    ) -> list[NDArray[np.float32] | InputError]:
        """Return the output of the network for each image.

        Args:
            is_alone: whether no other batch is computed now.
        """
        networks, results = self._networks[output], list[NDArray[np.float32] | InputError]()
        while rest := pixels[len(results) :]:  # more than one batch if requests were cancelled meanwhile
            size = networks.batch_size(len(rest))
            results += logits_of(networks.network(size, is_alone=is_alone), rest[:size])
        return results

    def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Compute one image, after compiling the networks for some batch sizes."""
        self._networks["logits"].compile_all(sizes)
        size = self.checkpoint.transform.crop_size
        self.run("logits", [np.zeros((*size, 3), np.uint8)])

    @property
    def sizes(self) -> list[int]:
        """The batch sizes for which networks are compiled."""
        return self._networks["logits"].sizes

    def prepare_for_load(self, workers: int) -> None:
        """Start processes that decode, and store the compiled network and the weights for the next start."""
        if self._isolated is not None:
            _start_workers(self._isolated, min(workers, WARM_WORKERS))
        self._single.save_cache()
        self.checkpoint.remember()

    def acquire(self) -> None:
        """Keep the model for a request."""
        with self._lock:
            self._num_users += 1

    def release(self) -> None:
        """End a request's use of the model."""
        with self._lock:
            self._num_users -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """End the worker processes as soon as no request uses the model."""
        self._is_retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_retired and not self._num_users and self._isolated is not None:
            self._isolated.close()

    def _networks_of(self, single: Network, output: int, max_batch: int) -> Networks | AnySize:
        if self.spec.engine != "openvino":
            return AnySize(single, max_batch)
        from levit_cli.engines.openvino import OpenVinoEngine

        engine = self._single
        assert isinstance(engine, OpenVinoEngine)
        return Networks(single, lambda size: engine.resized(output, size, streams=self.spec.threads), max_batch)


def public_name(source: str) -> str:
    """Return the name of a model for clients: of a path or URL the last part only, since the rest may be private."""
    if is_url(source):
        return PurePath(source.partition("?")[0]).name.partition("@")[0] or "levit"
    return PurePath(source).name or "levit" if os.path.exists(source) else source


def load_served_model(
    options: ModelOptions,
    spec: EngineSpec,
    decode: DecodeOptions,
    log: Log,
    *,
    max_batch: int,
    min_prob: float | None,
    verbose: bool,
) -> ServedModel:
    """Load a model and compile its network for single images.

    Args:
        max_batch: images per batch.
        min_prob: the threshold; None for the one that the model stores, if any, and 0 for none.

    Raises:
        LevitError: the model or the engine was refused.
    """
    checkpoint = load_model(options, log, verbose=verbose, single=True)
    threshold = choose_threshold(checkpoint, min_prob, log if verbose else silent)
    reader = Reader(checkpoint.transform, decode.decoding, decode.resizer, offline=True)
    isolated = _isolated_reader(reader, decode.timeout_s) if decode.isolate else None
    starting = _start_workers(isolated, 1) if isolated else []
    is_openvino = spec.engine == "openvino" or (spec.engine == "auto" and spec.device in ("auto", "cpu"))
    spec = spec.with_batching(1 if is_openvino else max_batch, single=is_openvino)
    engine = make_prediction_engine(checkpoint, spec, log, verbose=verbose)
    limit = engine.spec.batch_size if not is_openvino and engine.spec.batch_size else max_batch
    for thread in starting:
        thread.join()
    return ServedModel(
        checkpoint, reader, engine, public_name(options.name), threshold, isolated, decode.timeout_s, limit
    )


def _isolated_reader(reader: Reader, timeout_s: float) -> "IsolatedReader":
    from levit_cli.predict.isolation import IsolatedReader

    return IsolatedReader(reader, timeout_s)


def _start_workers(isolated: "IsolatedReader", count: int) -> list[threading.Thread]:
    """Start processes that decode, in the background. Further ones start when they are needed."""

    def decode() -> None:
        with suppress(InputError, RefusedError):  # one that cannot start is reported with the first image
            isolated(Input(STDIN, content=b""))

    threads = [threading.Thread(target=decode, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads
