"""``Classifier.predict``: the records of ``levit predict``, lazily, and without leaking threads."""

import gc
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import levit_cli
from levit_cli import Classifier, InputError, Prediction
from tests.support.binary import levit, records
from tests.support.random_weights import TINY
from tests.support.sample_images import sample_image, write_images


def record(prediction: Prediction) -> dict[str, Any]:
    """The record of ``levit predict`` for a prediction of the API."""
    if prediction.error is not None:
        assert prediction.top == ()
        error = {"kind": prediction.error.kind, "message": prediction.error.message}
        return {"path": prediction.path, "status": "error", "error": error}
    top = [{**vars(ranked), "prob": round(ranked.prob, 6)} for ranked in prediction.top]
    return {"path": prediction.path, "status": "ok", "top": top}


def write_mixed_images(folder: Path) -> list[Path]:
    """Write 200 images in several formats and sizes, of which every eighth cannot be read."""
    suffixes = ("jpg", "png", "webp", "bmp")
    folder.mkdir()
    paths = [folder / f"{number:03d}.{suffixes[number % 4]}" for number in range(200)]
    for number, path in enumerate(paths):
        sample_image(40 + 5 * (number % 37), 300 - 4 * (number % 53), seed=number).save(path)
    for number, path in enumerate(paths[::8]):
        data = path.read_bytes()
        path.unlink()
        if number % 4:
            path.write_bytes((b"", b"some text", data[: len(data) // 2])[number % 4 - 1])
    return paths


@pytest.mark.guarantee("api-same-results")
def test_records_equal_those_of_the_command(model: Classifier, folder: Path, tmp_path: Path) -> None:
    paths = write_mixed_images(tmp_path / "images")
    command = ("predict", "-m", folder, "-f", "jsonl", "-q", "-k", "4")
    listed = tmp_path / "paths.txt"
    listed.write_text("\n".join(map(str, paths)))
    stream = [*model.predict(paths, batch_size=16, top_k=4)]
    expected = records(levit(*command, "--files-from", listed, "-b", "16").stdout)
    assert [record(prediction) for prediction in stream] == expected
    kinds = {entry["error"]["kind"] for entry in expected if entry["status"] == "error"}
    assert kinds == {"not_found", "empty_file", "not_an_image", "truncated"}
    assert sum(entry["status"] == "ok" for entry in expected) == 175

    one_by_one = records(levit(*command, "--files-from", listed, "-b", "1").stdout)
    for path, prediction, from_command in zip(paths, stream, one_by_one, strict=True):
        if prediction.error is None:
            assert model(path, top_k=4) == prediction  # probabilities to the bit
            assert record(prediction) == from_command
        else:
            with pytest.raises(InputError) as raised:
                model(path)
            assert vars(raised.value) == {**from_command["error"], "path": str(path)}


def test_the_bytes_of_files_are_classified_too(model: Classifier, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 3)
    from_bytes = [*model.predict([path.read_bytes() for path in paths])]
    assert [prediction.top for prediction in from_bytes] == [prediction.top for prediction in model.predict(paths)]
    assert {prediction.path for prediction in from_bytes} == {"-"}


def test_no_inputs_give_no_predictions(model: Classifier) -> None:
    assert [*model.predict([])] == []
    assert model.embed([]).shape == (0, TINY.hidden_sizes[-1])


def threads_end(before: set[threading.Thread]) -> bool:
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not set(threading.enumerate()) - before


@pytest.mark.guarantee("api-bounded-stream")
@pytest.mark.parametrize("end", ["close", "delete", "raise"])
def test_an_infinite_stream_is_read_ahead_a_little_and_stops(model: Classifier, tmp_path: Path, end: str) -> None:
    (path,) = write_images(tmp_path, 1)
    pulled = count()

    def paths() -> Iterator[Path]:
        while True:
            next(pulled)
            yield path

    before = set(threading.enumerate())
    predictions = model.predict(paths(), batch_size=4)
    assert set(threading.enumerate()) == before  # nothing starts before the first prediction is requested
    assert [next(predictions).error for _ in range(40)] == [None] * 40
    if end == "close":
        predictions.close()
    elif end == "raise":
        with pytest.raises(KeyboardInterrupt):
            predictions.throw(KeyboardInterrupt)
    del predictions
    gc.collect()
    assert threads_end(before), threading.enumerate()
    assert next(pulled) < 40 + 200


def test_an_error_of_the_iterable_reaches_the_caller(model: Classifier, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 2)

    def failing() -> Iterator[Path]:
        yield from paths
        raise LookupError("the list ends here")

    before = set(threading.enumerate())
    predictions = model.predict(failing(), batch_size=1)
    assert [next(predictions).path for _ in paths] == [str(path) for path in paths]
    with pytest.raises(LookupError, match="the list ends here"):
        next(predictions)
    with pytest.raises(TypeError):
        next(model.predict([3]))  # type: ignore[list-item]
    assert threads_end(before)


def test_streams_of_one_model_can_be_interleaved(model: Classifier, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 20)
    expected = [model(path) for path in paths]
    for first, second, single in zip(model.predict(paths, 3), model.predict(paths, 16), expected, strict=True):
        assert first == second == single


def test_few_compiled_networks_are_kept(folder: Path, tmp_path: Path) -> None:
    paths, model = write_images(tmp_path, 2), levit_cli.load(folder)
    for batch_size in range(1, 8):
        assert [prediction.error for prediction in model.predict(paths, batch_size)] == [None, None]
    assert [*model._engines] == [4, 5, 6, 7]
