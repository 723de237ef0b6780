"""The Python API: load a model, then classify and embed images with it. docs/python.md describes it.

It gives the same predictions as ``levit predict``, because it uses the same reader, engines and stream. Unlike the
command it may not change the process: it sets no signal handler, no environment variable and no option of a library.
"""

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from levit_cli.checkpoints import Checkpoint
from levit_cli.checkpoints import load as load_checkpoint
from levit_cli.choices import DEFAULT_MODEL, Decoding, Device, EngineName, Precision, PreprocessingName, Resizer
from levit_cli.data.inputs import STDIN, Input
from levit_cli.data.labels import Labels
from levit_cli.data.remote.names import is_remote
from levit_cli.engines import EngineSpec, LevitEngine
from levit_cli.errors import InputError, UsageError, raise_faults
from levit_cli.images.resizers import resizer_faults
from levit_cli.images.rgb import to_rgb
from levit_cli.images.transforms import Transform
from levit_cli.model.config import LevitConfig
from levit_cli.predict import pipeline
from levit_cli.predict.model import choose_threshold, make_prediction_engine, threshold_faults
from levit_cli.predict.prefetch import DecodeOptions, Decoder
from levit_cli.predict.reader import Reader
from levit_cli.system.cpu import usable_threads
from levit_cli.system.extras import extra
from levit_cli.system.progress import silent

if TYPE_CHECKING:
    from levit_cli.model.levit import Levit

BATCH_SIZE = 16
EXIF_ORIENTATION = 0x0112
MAX_ENGINES = 4  # batch sizes whose compiled networks are kept

PathInput: TypeAlias = str | os.PathLike[str]  # a file, or a URL as a string
BytesInput: TypeAlias = bytes | bytearray | memoryview  # the content of a file
ImageInput: TypeAlias = PathInput | BytesInput | Image.Image | NDArray[np.uint8]
Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ranked:
    """A class and its probability.

    Args:
        index: the index of the class in the model's output.
        label: its name.
        wnid: its WordNet id, for the classes of ImageNet; otherwise None.
        prob: its softmax probability over all classes.
    """

    index: int
    label: str
    wnid: str | None
    prob: float


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image, or its error.

    Args:
        path: the path or URL as it was given; ``-`` for an image in memory.
        top: the best class first; empty for an error.
        error: why the image could not be classified.
        accepted: whether the probability of the best class reaches the threshold ``min_prob``; None for an error, and
            without a threshold.
    """

    path: str
    top: tuple[Ranked, ...] = ()
    error: InputError | None = None
    accepted: bool | None = None


def load(
    model: PathInput | None = None,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: EngineName = "auto",
    threads: int = 0,
    preprocessing: PreprocessingName | None = None,
    decode: Decoding = "exact",
    resizer: Resizer = "auto",
    labels: PathInput | None = None,
    offline: bool = False,
    sha256: str | None = None,
    min_prob: float | None = None,
) -> "Classifier":
    """Load a model and compile its network. The arguments are those of ``levit predict``.

    Args:
        model: a variant (``levit-128S`` to ``levit-384``), ``demo``, a hub id ``owner/name[@rev]``, a path, or an https
            URL. By default ``$LEVIT_MODEL``, or ``levit-256`` if that is not set.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. ``auto`` is the CPU; with a torch engine, a GPU if available.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        engine: ``auto``, ``openvino``, ``torch`` or ``compile``. ``auto`` is openvino on a CPU and torch on a GPU.
        threads: CPU threads of the network; 0 for all that the process may use. The torch engines use
            ``torch.get_num_threads()`` instead.
        preprocessing: a published preprocessing that replaces the checkpoint's own.
        decode: ``exact``, or ``fast`` to decode JPEGs that are at least 4 times larger than needed at a reduced size.
        resizer: ``simd`` or ``pillow``; ``auto`` is ``simd`` if its package, cykooz-resizer, can be imported.
        labels: a file of class names that replace the checkpoint's own.
        offline: use cached models only, and download no images.
        sha256: the expected hash of the weights, if the model is a URL.
        min_prob: the threshold for ``Prediction.accepted``. None is the one that ``levit eval`` stored in the model, if
            any; 0 turns it off.

    Raises:
        UsageError: an argument has an unknown value, or an extra is not installed.
        RefusedError: the model, the label file or the device cannot be used.
        UnreachableError: the hub cannot be reached, and the model is not cached.
        OutputError: the cache of the hub cannot be written.
    """
    _require_choice("device", device, get_args(Device))
    _require_choice("precision", precision, get_args(Precision))
    _require_choice("engine", engine, get_args(EngineName))
    _require_choice("preprocessing", preprocessing, (None, *get_args(PreprocessingName)))
    _require_choice("decode", decode, get_args(Decoding))
    _require_choice("resizer", resizer, get_args(Resizer))
    raise_faults([*resizer_faults(preprocessing, resizer), *threshold_faults(min_prob, "min_prob")])
    if threads < 0:
        raise UsageError(f"threads must be at least 0, not {threads}")
    if threads and engine in ("torch", "compile"):
        raise UsageError(f"threads has no effect on the {engine} engine", hint="call torch.set_num_threads instead")
    messages: list[str] = []
    checkpoint = load_checkpoint(
        os.fspath(model) if model is not None else os.environ.get("LEVIT_MODEL") or DEFAULT_MODEL,
        preprocessing=preprocessing,
        labels=None if labels is None else Path(labels),
        offline=offline,
        sha256=sha256,
        warn=messages.append,
    )
    for message in messages:
        warnings.warn(message, stacklevel=2)
    reader = Reader(checkpoint.transform, decode, resizer, offline=offline)
    spec = EngineSpec(device, engine, precision, threads)
    return Classifier(checkpoint, spec, reader, choose_threshold(checkpoint, min_prob))


class Classifier:
    """A loaded model. ``load`` returns it. All methods may be called from several threads at the same time."""

    def __init__(self, checkpoint: Checkpoint, spec: EngineSpec, reader: Reader, min_prob: float | None = None) -> None:
        self._checkpoint, self._spec, self._reader, self._min_prob = checkpoint, spec, reader, min_prob
        self._engines: dict[int, LevitEngine] = {}
        self._engines_lock = Lock()
        self._single = self._make_engine(1, single=True)
        self._single.save_cache()

    def __repr__(self) -> str:
        chosen, (height, width) = self._single.spec, self.config.image_size
        return (
            f"<Classifier {self._checkpoint.origin}: {len(self.labels)} classes, {width} x {height} px, "
            f"{chosen.engine} on {chosen.device} in {chosen.precision}>"
        )

    @property
    def labels(self) -> Labels:
        """The class names by index: ``labels[3]``, ``labels.names``, and ``labels.wnids`` for ImageNet."""
        return self._checkpoint.labels

    @property
    def config(self) -> LevitConfig:
        """The widths and sizes of the network."""
        return self._checkpoint.config

    @property
    def transform(self) -> Transform:
        """The preprocessing: resize, crop, mean and standard deviation."""
        return self._checkpoint.transform

    @property
    def temperature(self) -> float:
        """The logits are divided by it before the softmax; 1 unless ``levit eval`` stored another value."""
        return self._checkpoint.temperature

    @property
    def min_prob(self) -> float | None:
        """The smallest probability of the best class of an accepted prediction; None without a threshold."""
        return self._min_prob

    def __call__(self, image: ImageInput, top_k: int = 5) -> Prediction:
        """Classify one image.

        Args:
            image: a path, a URL, the bytes of a file, a PIL image, or an array (H, W, 3) of uint8 in RGB.
            top_k: the maximum number of classes.

        Raises:
            InputError: the image cannot be read or classified. ``kind`` and ``message`` are those of the command.
        """
        _require_positive("top_k", top_k)
        path = _path_of(image)
        (logits,) = pipeline.logits_of(self._single, [self._read(image, path)])
        if isinstance(logits, InputError):
            raise _with_path(logits, path)
        prediction = pipeline.rank(path, logits, top_k=top_k, temperature=self.temperature, min_prob=self.min_prob)
        if prediction.error is not None:
            raise _with_path(prediction.error, path)
        return self._prediction(prediction)

    def predict(
        self, paths: Iterable[PathInput | BytesInput], batch_size: int = BATCH_SIZE, top_k: int = 5
    ) -> Generator[Prediction, None, None]:
        """Classify a stream of images, as ``levit predict`` does.

        Images are decoded in background threads, and memory is bounded. The iterable may be infinite: it is read a few
        batches ahead, in a thread. Closing the generator stops the threads.

        Args:
            paths: paths, URLs (also of object storage) or the bytes of files. Folders and globs are not expanded.
            batch_size: the number of images per batch.
            top_k: the maximum number of classes per image.

        Yields:
            One prediction for each element, in order. One that cannot be classified has an ``error``.
        """
        _require_several("predict", paths)
        _require_positive("batch_size", batch_size)
        _require_positive("top_k", top_k)
        return self._stream(map(self._input, paths), batch_size, top_k)

    def embed(self, images: Iterable[ImageInput]) -> Array:
        """Return the features (N, C) of N images: the mean of the last stage's tokens, which the heads receive.

        Args:
            images: images as in ``__call__``.

        Raises:
            InputError: an image cannot be read; ``path`` is its path, or its position such as ``images[3]``.
        """
        _require_several("embed", images)
        parts = [self._compute(pixels, _features) for pixels in self._pixels_in_chunks(images)]
        return np.concatenate([np.zeros((0, self.config.hidden_sizes[-1]), np.float32), *parts])

    def preprocess(self, image: ImageInput) -> Pixels:
        """Return the pixels (H, W, 3) uint8 that the network sees of an image.

        Raises:
            InputError: the image cannot be read.
        """
        return np.array(self._read(image, _path_of(image)))

    def logits(self, batch: Pixels) -> Array:
        """Return the logits (B, classes), the mean of the two heads, of preprocessed pixels (B, H, W, 3) uint8.

        Raises:
            UsageError: the array has another shape or type.
        """
        shape = (*self.config.image_size, 3)
        if batch.dtype != np.uint8 or batch.shape[1:] != shape:
            raise UsageError(
                f"Cannot compute logits of an array {batch.shape} of {batch.dtype}",
                why=f"the network takes (B, {', '.join(map(str, shape))}) of uint8, as preprocess returns them",
            )
        return self._compute(batch, _logits) if len(batch) else np.zeros((0, len(self.labels)), np.float32)

    def to_torch(self) -> "Levit":
        """Return a new ``torch.nn.Module`` with the weights of the model, in evaluation mode.

        It is the training form, with batch norms and two heads, and takes normalized images (B, 3, H, W) float32.

        Raises:
            UsageError: torch is not installed.
        """
        with extra("torch", "to_torch()"):
            from levit_cli.model.levit import from_arrays
        return from_arrays(self.config, self._checkpoint.state)

    def _stream(self, inputs: Iterable[Input], batch_size: int, top_k: int) -> Generator[Prediction, None, None]:
        engine = self._batch_engine(batch_size)
        with Decoder(self._reader, DecodeOptions()) as decoder:
            predictions = pipeline.predict(
                decoder.prefetch(inputs, batch_size),
                engine,
                top_k=top_k,
                streams=engine.spec.streams,
                temperature=self.temperature,
                min_prob=self.min_prob,
            )
            with closing(predictions):
                for prediction in predictions:
                    yield self._prediction(prediction)

    def _prediction(self, prediction: pipeline.Prediction) -> Prediction:
        names, wnids = self.labels.names, self.labels.wnids
        top = (Ranked(index, names[index], wnids[index] if wnids else None, prob) for index, prob in prediction.top)
        return Prediction(prediction.path, tuple(top), prediction.error, prediction.accepted)

    def _read(self, image: ImageInput, path: str) -> Pixels:
        """Return the pixels of an image. ``path`` identifies it in errors."""
        try:
            if isinstance(image, (Image.Image, np.ndarray)):
                return self._reader.preprocess(_upright_rgb(image))
            return self._reader(self._input(image))
        except MemoryError:
            raise InputError("too_large", "not enough memory to preprocess it", _in_error(path)) from None
        except InputError as error:
            raise _with_path(error, path) from error.__cause__

    def _input(self, image: PathInput | BytesInput) -> Input:
        """Return the input of a path, a URL or the bytes of a file.

        Raises:
            TypeError: it is none of them.
            UsageError: an object storage that is not known, or whose package is not installed.
        """
        if isinstance(image, (bytes, bytearray, memoryview)):
            return Input(STDIN, content=bytes(image))
        path = os.fspath(image)
        if not isinstance(path, str):
            raise TypeError(f"expected a path or the bytes of an image, got {type(image).__name__}")
        if not self._reader.offline and is_remote(path):
            from levit_cli.data.remote.sources import named

            return named(path)  # which is read ahead
        return Input(os.path.join(os.curdir, path) if path == STDIN else path)

    def _pixels_in_chunks(self, images: Iterable[ImageInput]) -> Iterator[Pixels]:
        """Read images in threads and yield the pixels (B, H, W, 3) of as many as the engine computes at a time."""
        threads = usable_threads()
        positions = count()
        rest = iter(images)
        with ThreadPoolExecutor(threads) as pool:
            while chunk := [*islice(rest, BATCH_SIZE * threads)]:
                named = [(image, _path_of(image, f"images[{next(positions)}]")) for image in chunk]
                yield np.stack([*pool.map(lambda pair: self._read(*pair), named)])

    def _compute(self, pixels: Pixels, output: Callable[[LevitEngine, Pixels], Array]) -> Array:
        """Return an output of the network for any number of images, computed in as many streams as the engine has."""
        engine = self._single if len(pixels) == 1 else self._batch_engine(BATCH_SIZE)
        size = engine.spec.batch_size or BATCH_SIZE
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        if len(batches) == 1:
            return output(engine, pixels)
        with ThreadPoolExecutor(engine.spec.streams) as pool:
            return np.concatenate([*pool.map(partial(output, engine), batches)])

    def _batch_engine(self, batch_size: int) -> LevitEngine:
        """Return the engine for a batch size; the most recent ones are kept."""
        if not self._single.spec.batch_size:  # it takes batches of any size
            return self._single
        with self._engines_lock:
            if batch_size not in self._engines:
                for oldest in [*self._engines][: -MAX_ENGINES + 1]:
                    del self._engines[oldest]
                self._engines[batch_size] = self._make_engine(batch_size, single=False)
            return self._engines[batch_size]

    def _make_engine(self, batch_size: int, *, single: bool) -> LevitEngine:
        spec = self._spec.with_batching(batch_size, single=single)
        return make_prediction_engine(self._checkpoint, spec, silent, verbose=False, owns_process=False)


def _logits(engine: LevitEngine, pixels: Pixels) -> Array:
    return engine(pixels)


def _features(engine: LevitEngine, pixels: Pixels) -> Array:
    return engine.features(pixels)


def _path_of(image: ImageInput, in_memory: str = STDIN) -> str:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else in_memory


def _upright_rgb(image: Image.Image | Pixels) -> Image.Image:
    """Return a PIL image or an array as an upright RGB image.

    Raises:
        InputError: the image cannot be decoded or converted.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(_rgb_array(image))
    try:
        image.load()
    except Exception as error:  # Pillow opens files lazily, and decoders raise many types
        message = str(error) or type(error).__name__
        raise InputError("truncated" if "truncated" in message else "corrupt", message) from error
    if 0 in image.size:
        raise InputError("unsupported_mode", f"expected an image with pixels, got {image.width} x {image.height}")
    return to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation. Pillow removes the orientation from images that it has turned."""
    try:
        is_turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if is_turned else image
    except Exception:  # the EXIF block is broken, but the pixels are intact
        return image


def _rgb_array(array: Pixels) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(
            "unsupported_mode", f"expected an array (H, W, 3) of uint8, got {array.shape} of {array.dtype}"
        )
    return np.ascontiguousarray(array)


def _with_path(error: InputError, path: str) -> InputError:
    return InputError(error.kind, error.message, _in_error(path))


def _in_error(path: str) -> str:
    return "" if path == STDIN else path


def _require_choice(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        names = ", ".join(str(choice) for choice in known if choice is not None)
        raise UsageError(f"Unknown {name} {value!r}", why=f"the known values are {names}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} must be at least 1, not {value}")


def _require_several(method: str, images: object) -> None:
    """Refuse one image where several are expected: the characters of a path would be taken for paths."""
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        raise UsageError(f"{method} takes an iterable of images, not one {type(images).__name__}", hint="use [image]")
