"""``load`` and the calls of a ``Classifier``: one image, pixels, logits, errors and threads."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import levit_cli
from levit_cli import Classifier, InputError, RefusedError, UnreachableError, UsageError
from levit_cli.checkpoints import load as load_checkpoint
from levit_cli.errors import LevitError
from levit_cli.predict.pipeline import probabilities
from tests.support.fake_hub import FakeSite
from tests.support.format_files import files_of
from tests.support.random_weights import TINY, random_state, write_folder
from tests.support.sample_images import sample_image, write_images


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_a_prediction_names_the_best_classes(model: Classifier, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    prediction = model(path, top_k=3)
    assert prediction.path == str(path)
    assert prediction.error is None
    assert len(prediction.top) == 3
    probs = probabilities(model.logits(model.preprocess(path)[None]))[0]
    for ranked, index in zip(prediction.top, np.argsort(-probs), strict=False):
        assert (ranked.index, ranked.prob) == (index, probs[index])
        assert (ranked.label, ranked.wnid) == (model.labels[index], (model.labels.wnids or ())[index])
    assert len(model(path).top) == 5
    assert len(model(path, 5000).top) == len(model.labels) == 1000


def test_every_form_of_an_image_gives_the_same_prediction(model: Classifier, tmp_path: Path) -> None:
    image = sample_image()
    path = tmp_path / "a.png"
    image.save(path)
    expected = model(str(path)).top
    for form in (path, path.read_bytes(), bytearray(path.read_bytes()), image, np.array(image), np.asarray(image)):
        assert model(form).top == expected
    with Image.open(path) as opened:
        assert model(opened).top == expected
    assert model(image).path == model(path.read_bytes()).path == "-"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_an_opened_image_is_read_as_its_file_is(model: Classifier, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    if mode == "I;16":
        Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10).save(path)
    else:
        sample_image().convert(mode).save(path)
    with Image.open(path) as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(model.preprocess(opened), model.preprocess(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 0, 9])
def test_an_opened_image_is_turned_upright_as_its_file_is(
    model: Classifier, tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    sample_image().save(path, exif=exif)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(model.preprocess(opened), model.preprocess(path))


def test_an_image_from_a_url(model: Classifier, site: FakeSite) -> None:
    content = saved(sample_image())
    site.pages["/a.png"] = lambda exchange: exchange.reply(200, content)
    url = f"{site.url}/a.png"
    assert (model(url).path, model(url).top) == (url, model(content).top)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda folder: folder / "missing.jpg", "not_found"),
        (lambda folder: folder, "not_regular"),
        (lambda folder: "-", "not_found"),  # a file name, not standard input
        (lambda folder: b"", "empty_file"),
        (lambda folder: b"some text that is no image", "not_an_image"),
        (lambda folder: saved(sample_image(400, 400))[:-400], "truncated"),
        (lambda folder: Image.open(BytesIO(saved(sample_image(400, 400), "JPEG")[:-400])), "truncated"),
        (lambda folder: np.zeros((8, 8, 3), np.float32), "unsupported_mode"),
        (lambda folder: np.zeros((8, 8), np.uint8), "unsupported_mode"),
        (lambda folder: np.zeros((0, 8, 3), np.uint8), "unsupported_mode"),
        (lambda folder: Image.new("RGB", (0, 8)), "unsupported_mode"),
    ],
)
def test_an_image_that_cannot_be_read_is_an_exception(model: Classifier, tmp_path: Path, make: Any, kind: str) -> None:
    image = make(tmp_path)
    for call in (model, model.preprocess, lambda image: model.embed([b"", image][1:])):
        with pytest.raises(InputError) as raised:
            call(image)
        assert raised.value.kind == kind
        assert raised.value.message in str(raised.value)
    if isinstance(image, Path):
        assert str(raised.value).startswith(f"{image}: ")


def test_a_value_that_is_no_image_is_a_type_error(model: Classifier) -> None:
    for value in (None, 3, ["a.jpg"]):
        with pytest.raises(TypeError):
            model(value)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_an_exception(tmp_path: Path) -> None:
    state = random_state(TINY)
    for name in [name for name in state if name.endswith(("weight", "bias")) and "norm" in name]:
        state[name] = state[name] * np.float32(1e20)
    huge = levit_cli.load(write_folder(tmp_path / "hf", state), precision="fp32")
    with pytest.raises(InputError) as raised:
        huge(sample_image())
    assert raised.value.kind == "non_finite"


def test_the_logits_of_any_number_of_images(model: Classifier) -> None:
    pixels = np.stack([model.preprocess(sample_image(seed=seed)) for seed in range(35)])
    assert pixels.shape == (35, *model.config.image_size, 3)
    assert pixels.dtype == np.uint8
    logits = model.logits(pixels)
    assert logits.shape == (35, 1000)
    assert logits.dtype == np.float32
    for size in (0, 1, 2, 16, 33):
        np.testing.assert_array_equal(model.logits(pixels[:size]), logits[:size])


@pytest.mark.parametrize("shape", [(64, 64, 3), (2, 64, 32, 3), (2, 3, 64, 64)])
def test_pixels_of_another_shape_or_type_are_refused(model: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"the network takes \(B, 64, 64, 3\) of uint8"):
        model.logits(np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match="float32"):
        model.logits(np.zeros((1, 64, 64, 3), np.float32))


@pytest.mark.guarantee("api-threads")
def test_eight_threads_give_what_one_gives(folder: Path, tmp_path: Path) -> None:
    model = levit_cli.load(folder)  # a new one, so that threads also compile its networks at the same time
    paths = write_images(tmp_path, 24)
    one = levit_cli.load(folder)
    expected = [one(path) for path in paths], one.embed(paths), [*one.predict(paths)]

    def work(number: int) -> None:
        for path, prediction in [*zip(paths, expected[0], strict=True)][number % 3 :: 2]:
            assert model(path) == prediction
        np.testing.assert_array_equal(model.embed(paths), expected[1])
        assert [*model.predict(paths)] == expected[2]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_load_without_a_model_follows_the_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("LEVIT_MODEL", str(folder))
    assert len(levit_cli.load().labels) == 1000
    assert len(levit_cli.load("demo").labels) == 10
    monkeypatch.setenv("LEVIT_MODEL", "")
    with pytest.raises(UnreachableError, match="levit-256"):  # tests are offline
        levit_cli.load(offline=True)


def test_load_takes_the_options_of_the_command(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"name {number}" for number in range(1000)))
    model = levit_cli.load(str(folder), labels=names, preprocessing="timm", precision="fp32", threads=1, decode="fast")
    assert model.labels[3] == "name 3"
    assert model.transform.name == "timm"
    assert model.config.num_classes == 1000
    assert model.temperature == 1
    assert "64 x 64 px, openvino on cpu in fp32" in repr(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, UsageError, "Unknown device 'gpu' · the known values are auto, cpu, cuda, mps"),
        ({"precision": "int4"}, UsageError, "Unknown precision 'int4'"),
        ({"engine": "onnx"}, UsageError, "Unknown engine 'onnx'"),
        ({"preprocessing": "clip"}, UsageError, "the known values are fb, hf, timm, hf-tensor"),
        ({"decode": "slow"}, UsageError, "Unknown decode 'slow'"),
        ({"precision": "fp16"}, RefusedError, "fp16"),
        ({"device": "cuda", "engine": "openvino"}, UsageError, "not on cuda"),
        ({"engine": "torch", "threads": 2}, UsageError, "torch.set_num_threads"),
        ({"threads": -1}, UsageError, "threads must be at least 0"),
        ({"labels": "missing.txt"}, RefusedError, "missing.txt"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    folder: Path, options: dict[str, Any], error: type[LevitError], message: str
) -> None:
    with pytest.raises(error) as raised:
        levit_cli.load(folder, **options)
    assert message in str(raised.value)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="Unknown model"):
        levit_cli.load(tmp_path / "nothing")


@pytest.mark.parametrize("call", ["predict", "embed"])
def test_one_image_is_not_taken_for_several(model: Classifier, call: str) -> None:
    for one in ("a.jpg", Path("a.jpg"), b"", sample_image()):
        with pytest.raises(UsageError, match="iterable"):
            getattr(model, call)(one)


def test_counts_must_be_positive(model: Classifier) -> None:
    with pytest.raises(UsageError, match="top_k must be at least 1"):
        model(sample_image(), top_k=0)
    with pytest.raises(UsageError, match="top_k"):
        model.predict([], top_k=0)
    with pytest.raises(UsageError, match="batch_size"):
        model.predict([], batch_size=0)


@pytest.mark.parametrize(
    "error", [InputError("truncated", "cut", "a.jpg"), UsageError("what", why="why", hint="hint"), RefusedError("what")]
)
def test_errors_can_be_pickled(error: Any) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_warnings_of_loading_are_python_warnings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_warning(source: str, *, warn: Any, **options: Any) -> Any:
        warn("using the cached copy")
        return load_checkpoint(source, warn=warn, **options)

    monkeypatch.setattr("levit_cli.api.load_checkpoint", with_warning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        levit_cli.load(folder)
    assert [(str(warning.message), warning.filename) for warning in caught] == [("using the cached copy", __file__)]


@pytest.mark.guarantee("formats")
def test_all_formats_as_a_path_as_bytes_and_as_an_image_of_pillow(model: Classifier, tmp_path: Path) -> None:
    for name, content in files_of(sample_image(96, 80)).items():
        path = tmp_path / name
        path.write_bytes(content)
        pixels = model.preprocess(path)
        assert np.array_equal(model.preprocess(content), pixels)
        if name.startswith(("avif", "jpeg 2000", "ppm", "pbm")):
            with Image.open(path) as image:
                assert np.abs(model.preprocess(image).astype(int) - pixels).max() <= 2


def test_an_image_that_another_plugin_has_opened(model: Classifier) -> None:
    from pi_heif import HeifFile

    content = files_of(sample_image(96, 80))["heic"]
    assert np.array_equal(model.preprocess(HeifFile(BytesIO(content)).to_pillow()), model.preprocess(content))
