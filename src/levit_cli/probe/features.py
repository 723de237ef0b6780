"""Compute the features of labeled images and of their mirror images, with the pipeline of ``levit predict``.

Each image is decoded once: mirroring the cropped pixels gives the crop of the mirrored image, up to rounding.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from levit_cli import __version__
from levit_cli.checkpoints import Checkpoint
from levit_cli.data.input import Input
from levit_cli.engines import EngineSpec, LevitEngine, keep_until_exit
from levit_cli.errors import InputError
from levit_cli.predict.model import make_prediction_engine
from levit_cli.predict.pipeline import Embedding, Stats, embed
from levit_cli.predict.prefetch import DecodeOptions, Decoder
from levit_cli.predict.reader import Reader
from levit_cli.probe.feature_cache import FeatureCache, digest_of
from levit_cli.system.files import open_regular
from levit_cli.system.progress import Log

VIEWS = 2  # the image and its mirror image

Features = NDArray[np.float32]
Pixels = NDArray[np.uint8]
OpenCache = Callable[[str, int], FeatureCache | None]  # for what the features depend on and their number


@dataclass(frozen=True, eq=False)
class Computed:
    """The features of N images.

    Args:
        views: (N, 2, C) the features of each image and of its mirror image; undefined for an unreadable one.
        errors: why an image cannot be read, by its position.
        stats: the counts and times of the images that were not in the cache.
        num_cached: number of images in the cache.
        precision: of the engine.
    """

    views: Features
    errors: dict[int, InputError]
    stats: Stats
    num_cached: int
    precision: str

    def summary(self) -> str:
        """Return one line with the number of images, the rate, and how many came from the cache."""
        cached = f"{self.num_cached:,} from the cache" if self.num_cached else ""
        return ", ".join(filter(None, (self.stats.summary() if self.stats.images else "", cached)))


def compute_features(
    checkpoint: Checkpoint,
    images: Sequence[Input],
    spec: EngineSpec,
    reader: Reader,
    open_cache: OpenCache,
    log: Log,
    *,
    workers: int = 0,
    verbose: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> Computed:
    """Compute the features of images, or take them from the cache.

    Args:
        spec: the engine's settings; its threads are divided among the streams as in ``predict``.
        workers: the number of decode threads; 0 for one per usable core.
        on_image: called after each image, also from another thread.

    Raises:
        RefusedError: the CPU does not support the precision.
        OutputError: the cache cannot be written.
    """
    spec = spec.with_batching(spec.batch_size, single=False)
    engine = make_prediction_engine(checkpoint, spec, log, verbose=verbose, for_features=True)
    keep_until_exit(engine)
    width, stats = checkpoint.config.hidden_sizes[-1], Stats()
    cache = open_cache(what_features_depend_on(checkpoint, reader, engine.spec), VIEWS * width)
    features = _Features(images, width, cache, on_image)
    with Decoder(reader, DecodeOptions(workers=workers)) as decoder:
        prefetcher = decoder.prefetch(features.unknown(), spec.batch_size)
        stream = embed(prefetcher, both_views(engine), streams=engine.spec.streams, stats=stats)
        try:
            with closing(stream):
                for embedding in stream:
                    features.store(embedding)
        finally:  # also after an interruption
            if cache:
                cache.save()
    return Computed(features.views, features.errors, stats, features.num_cached, engine.spec.precision)


def both_views(engine: LevitEngine) -> Callable[[Pixels], Features]:
    """Return the network (B, H, W, 3) -> (B, 2 C), the features of the images and of their mirror images."""

    def features(pixels: Pixels) -> Features:
        return np.concatenate([engine.features(pixels), engine.features(pixels[:, :, ::-1])], axis=1)

    return features


def what_features_depend_on(checkpoint: Checkpoint, reader: Reader, spec: EngineSpec) -> str:
    """Return as JSON on what the features of an image depend."""
    settings = {
        "levit": __version__,
        "model": checkpoint.sha256,
        "preprocessing": asdict(checkpoint.transform),
        "decoding": reader.decoding,
        "resizer": str(reader.resizer),
        "precision": spec.precision,
    }
    return json.dumps(settings, sort_keys=True)


class _Features:
    """The features of the images: those in the cache, and those of the others as they are computed."""

    def __init__(
        self, images: Sequence[Input], width: int, cache: FeatureCache | None, on_image: Callable[[], None]
    ) -> None:
        self.views = np.zeros((len(images), VIEWS, width), np.float32)
        self.errors: dict[int, InputError] = {}
        self.num_cached = 0
        self._images, self._cache, self._on_image = images, cache, on_image
        self._listed: deque[tuple[int, bytes]] = deque()  # positions and hashes of the images that are computed

    def unknown(self) -> Iterator[Input]:
        """Yield the images that are not in the cache, with their content. Called in another thread."""
        for position, image in enumerate(self._images):
            item, digest = (image, b"") if self._cache is None else _hashed(image)
            known = self._cache.find(digest) if self._cache and digest else None
            if known is None:
                self._listed.append((position, digest))
                yield item
            else:
                self.views[position] = known.reshape(VIEWS, -1)
                self.num_cached += 1
                self._on_image()

    def store(self, embedding: Embedding) -> None:
        """Keep the result of the next image that was listed."""
        position, digest = self._listed.popleft()
        if embedding.vector is None:
            assert embedding.error is not None
            self.errors[position] = embedding.error
        else:
            self.views[position] = embedding.vector.reshape(VIEWS, -1)
            if self._cache and digest:
                self._cache.add(digest, embedding.vector)
        self._on_image()


def _hashed(image: Input) -> tuple[Input, bytes]:
    """Read an image; return it with its content and the hash. The pipeline reports one that cannot be read."""
    try:
        if image.content is not None:
            content = image.content
        elif image.load is not None:
            content = image.load()
        else:
            with open_regular(image.path) as file:
                content = file.read()
    except (InputError, OSError, MemoryError):
        return image, b""
    return replace(image, content=content, load=None), digest_of(content)
