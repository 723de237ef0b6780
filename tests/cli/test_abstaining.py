"""``--min-prob`` and stored thresholds, from ``levit eval --store-threshold`` to ``levit predict``."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import levit_cli
from levit_cli.checkpoints import Threshold, load, save
from levit_cli.checkpoints.load import DEMO_FOLDER
from levit_cli.checkpoints.metadata import store_temperature, store_threshold
from levit_cli.convert import convert
from levit_cli.info import as_text, describe
from tests.support.binary import environment, levit, records
from tests.support.extras import needs_parquet
from tests.support.sample_images import sample_image

THRESHOLD = Threshold(0.5, 1.0, 0.95, 1000, 800, 770)
TOP_K = ("-k", "2", "--precision", "fp32", "-q")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        sample_image(60 + 9 * number, 80, seed=number).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes(b"")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo model in a folder of our own, at temperature 1."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    store_temperature(folder, 1.0)
    return folder


@pytest.fixture(scope="module")
def probs(photos: Path) -> list[float]:
    """The probability of the first class of each readable image, in the order of the records."""
    done = levit("predict", photos, "-m", "demo", "-f", "jsonl", *TOP_K)
    return [record["top"][0]["prob"] for record in records(done.stdout) if record["status"] == "ok"]


@pytest.fixture(scope="module")
def median(probs: Sequence[float]) -> str:
    """A threshold between the probabilities."""
    middle = sorted(probs)[4:6]
    assert middle[1] - middle[0] > 1e-5
    return f"{sum(middle) / 2:.6f}"


def test_each_format_says_which_predictions_are_accepted(photos: Path, probs: list[float], median: str) -> None:
    expected = [prob >= float(median) for prob in probs]
    assert sorted({*expected}) == [False, True]
    run: tuple[Path | str, ...] = (photos, "-m", "demo", "--min-prob", median, *TOP_K)
    lines = records(levit("predict", *run, "-f", "jsonl").stdout)
    assert [line["accepted"] for line in lines if line["status"] == "ok"] == expected
    assert all("accepted" not in line for line in lines if line["status"] == "error")
    document = json.loads(levit("predict", *run, "-f", "json").stdout)
    assert document["meta"]["min_prob"] == float(median)
    assert [each.get("accepted") for each in document["results"]] == [line.get("accepted") for line in lines]
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = [*csv.reader(io.StringIO(levit("predict", *run, "-f", format).stdout.decode()), delimiter=delimiter)]
        assert rows[0][-1] == "accepted"
        texts = {True: "true", False: "false", None: ""}
        assert [row[-1] for row in rows[1:]] == [texts[line.get("accepted")] for line in lines]
    options = ("--min-prob", median, "-k", "2", "--precision", "fp32", "-f", "table")
    done = levit("predict", photos, "-m", "demo", *options, env=environment(COLUMNS="300"))
    assert done.stdout.decode().count(f"not accepted (below {float(median):g})") == expected.count(False)
    assert f"{expected.count(True)} of {len(expected)} accepted" in done.stderr.decode()


def test_without_a_threshold_nothing_is_said(photos: Path, model: Path) -> None:
    store_threshold(model, THRESHOLD)
    plain = levit("predict", photos, "-m", "demo", "-f", "csv", *TOP_K)
    for chosen in (("-m", "demo", "--min-prob", "0"), ("-m", model, "--min-prob", "0")):
        done = levit("predict", photos, *chosen, "-f", "csv", *TOP_K)
        assert b"accepted" not in done.stdout
        if "demo" in chosen:
            assert done.stdout == plain.stdout


@needs_parquet
def test_parquet_has_a_column_and_a_resumed_run_keeps_it(photos: Path, median: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    output = tmp_path / "o.parquet"
    run = ("predict", photos, "-m", "demo", "--min-prob", median, "-o", output, *TOP_K)
    assert levit(*run).returncode == 1
    whole = output.read_bytes()
    table = parquet.read_table(output)
    assert table.column_names[-1] == "accepted"
    is_error = [status == "error" for status in table["status"].to_pylist()]
    assert [value is None for value in table["accepted"].to_pylist()] == is_error
    assert levit(*run, "--resume").returncode == 1
    assert output.read_bytes() == whole
    assert b"min-prob was" in levit(*run[:4], *run[6:], "--resume").stderr
    plain = tmp_path / "plain.parquet"
    assert levit("predict", photos, "-m", "demo", "-o", plain, *TOP_K).returncode == 1
    assert "accepted" not in parquet.read_table(plain).column_names


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_run_is_resumed_with_its_own_threshold_only(photos: Path, median: str, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"o.{suffix}"
    run = ("predict", photos, "-m", "demo", "-o", output, *TOP_K)
    assert levit(*run, "--min-prob", median).returncode == 1
    whole = output.read_bytes()
    output.write_bytes(whole[:-30])  # this also drops the fingerprint
    assert levit(*run, "--resume", "--min-prob", median).returncode == 1
    assert output.read_bytes() == whole
    for options, words in (
        ((), f"min-prob was {float(median):g} and is not set"),
        (("--min-prob", "0.999"), f"min-prob was {float(median):g} and is 0.999"),
    ):
        refused = levit(*run, "--resume", *options)
        assert refused.returncode == 2
        assert words in refused.stderr.decode()
    copy = tmp_path / f"copy.{suffix}"
    copy.write_bytes(whole)  # without a fingerprint, the records are compared
    for options in ((), ("--min-prob", "0.999"), ("--min-prob", "0.0001")):
        refused = levit("predict", photos, "-m", "demo", "-o", copy, *TOP_K, "--resume", *options)
        assert refused.returncode == 2, refused.stderr
    assert copy.read_bytes() == output.read_bytes() == whole


@pytest.mark.guarantee("stored-threshold")
def test_a_stored_threshold_is_used_until_the_temperature_changes(photos: Path, model: Path) -> None:
    store_threshold(model, THRESHOLD)
    done = levit("predict", photos, "-m", model, "-f", "jsonl", *TOP_K[:-1], "-v")
    assert "threshold 0.5, stored by levit eval" in done.stderr.decode()
    lines = [line for line in records(done.stdout) if line["status"] == "ok"]
    assert [line["accepted"] for line in lines] == [line["top"][0]["prob"] >= 0.5 for line in lines]
    store_temperature(model, 0.9)
    assert "threshold" not in json.loads((model / "config.json").read_text())["levit_cli"]
    assert load(model).threshold is None


@pytest.mark.guarantee("stored-threshold")
def test_a_threshold_of_another_temperature_is_not_used(model: Path) -> None:
    store_threshold(model, THRESHOLD)
    assert load(model).threshold == THRESHOLD
    config = json.loads((model / "config.json").read_text())
    config["levit_cli"]["temperature"] = 1.2  # by another program
    (model / "config.json").write_text(json.dumps(config))
    assert load(model).threshold is None


@pytest.mark.guarantee("stored-threshold")
def test_with_another_preprocessing_the_stored_threshold_is_not_used(photos: Path, model: Path) -> None:
    store_threshold(model, THRESHOLD)
    done = levit("predict", photos, "-m", model, "-f", "csv", "--preprocessing", "timm", *TOP_K)
    assert b"accepted" not in done.stdout
    assert "The stored threshold 0.5 is not used" in done.stderr.decode()


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_a_threshold_that_is_no_probability_is_refused(photos: Path, value: str) -> None:
    done = levit("predict", photos, "-m", "demo", "--min-prob", value)
    assert (done.returncode, done.stdout) == (2, b"")
    with pytest.raises(levit_cli.UsageError, match="min_prob must be from 0 to 1"):
        levit_cli.load("demo", min_prob=float(value))


@pytest.mark.parametrize("stored", [{"min_prob": 2}, {"min_prob": "0.5"}, {"min_prob": float("nan")}, {}, 0.5])
def test_a_damaged_threshold_is_refused(model: Path, stored: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    whole = {"temperature": 1, "target_accuracy": 0.9, "images": 1, "accepted": 1, "correct": 1}
    config["levit_cli"]["threshold"] = whole | stored if isinstance(stored, dict) else stored
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(levit_cli.RefusedError, match="metadata"):
        load(model)


def test_the_python_api_says_what_is_accepted(photos: Path, model: Path, median: str) -> None:
    paths = sorted(photos.iterdir())
    with_option = levit_cli.load("demo", min_prob=float(median), precision="fp32")
    accepted = [prediction.accepted for prediction in with_option.predict(paths)]
    lines = records(levit("predict", photos, "-m", "demo", "--min-prob", median, "-f", "jsonl", *TOP_K).stdout)
    assert accepted == [line.get("accepted") for line in lines]
    assert with_option(paths[0]).accepted == accepted[0]
    assert levit_cli.load("demo")(paths[0]).accepted is None
    store_threshold(model, THRESHOLD)
    assert (levit_cli.load(model).min_prob, levit_cli.load(model, min_prob=0).min_prob) == (0.5, None)


@pytest.mark.guarantee("stored-threshold")
def test_a_conversion_keeps_the_threshold_unless_the_weights_or_the_preprocessing_change(
    tiny_folder: Path, tmp_path: Path
) -> None:
    tiny = shutil.copytree(tiny_folder, tmp_path / "tiny")
    store_threshold(tiny, THRESHOLD)
    convert(load(tiny), tmp_path / "timm", "timm", "float32")
    assert load(tmp_path / "timm").threshold == THRESHOLD
    report = convert(load(tiny), tmp_path / "half", "hf", "bfloat16")
    assert load(tmp_path / "half").threshold is None
    assert "the stored threshold 0.5 is dropped" in report.as_text()
    done = levit("convert-checkpoint", tiny, "-o", tmp_path / "resized", "--to", "hf", "--resize-to", "140")
    assert "the stored threshold 0.5 is dropped" in done.stdout.decode()
    assert load(tmp_path / "resized").threshold is None


def test_info_shows_the_threshold(model: Path) -> None:
    store_threshold(model, THRESHOLD)
    facts = describe(load(model))
    assert facts["threshold"]["min_prob"] == 0.5
    assert "threshold      0.5 (chosen for an accuracy of 0.95; 770 of 800 accepted images correct)" in as_text(facts)
    save(load(model), model, "hf")  # as levit finetune saves a model again after its evaluation
    assert load(model).threshold == THRESHOLD


@pytest.fixture(scope="module")
def labeled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The readable images many times over, in folders of the classes that the demo model gives them, but for one."""
    root = tmp_path_factory.mktemp("labeled") / "val"
    lines = records(levit("predict", photos, "-m", "demo", "-f", "jsonl", *TOP_K).stdout)
    ok = sorted((line for line in lines if line["status"] == "ok"), key=lambda line: line["top"][0]["prob"])
    for number, line in enumerate(ok):
        label = line["top"][int(number == 0)]["label"]
        (root / label).mkdir(parents=True, exist_ok=True)
        for copy in range(10):
            shutil.copy(line["path"], root / label / f"{number}-{copy}.png")
    return root


Evaluate = Callable[..., Any]


@pytest.fixture
def evaluate(labeled: Path, model: Path) -> Evaluate:
    def run(*options: str, model: Path | str = model) -> Any:
        return levit("eval", labeled, "-m", model, "--precision", "fp32", "-f", "json", *options)

    return run


def test_a_found_threshold_is_stored_and_shown_by_the_next_evaluation(evaluate: Evaluate, model: Path) -> None:
    done = evaluate("--target-accuracy", "0.9", "--store-threshold")
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["coverage"]["target"]
    stored = load(model).threshold
    assert stored is not None
    assert (stored.min_prob, stored.accepted) == (target["chosen"]["threshold"], target["chosen"]["accepted"])
    assert 0 < target["chosen"]["coverage"] < 1
    assert target["chosen"]["accuracy"] == 1
    assert f"Stored threshold {stored.min_prob:g} in {model / 'config.json'}" in done.stderr.decode()
    again = json.loads(evaluate().stdout)["coverage"]
    assert again["stored"] == target["chosen"]
    assert again["target"] is None


def test_a_new_temperature_and_a_threshold_for_it_are_stored_together(evaluate: Evaluate, model: Path) -> None:
    assert evaluate("--target-accuracy", "0.8", "--store-threshold").returncode == 0
    done = evaluate("--calibrate", "--target-accuracy", "0.9", "--store-threshold")
    assert done.returncode == 0, done.stderr
    checkpoint = load(model)
    assert checkpoint.temperature != 1
    assert checkpoint.threshold is not None
    assert (checkpoint.threshold.temperature, checkpoint.threshold.target_accuracy) == (checkpoint.temperature, 0.9)
    done = evaluate("--calibrate")
    assert done.returncode == 0
    assert f"Removed the stored threshold {checkpoint.threshold.min_prob:g}".encode() in done.stderr
    assert load(model).threshold is None


@pytest.mark.guarantee("stored-threshold")
def test_a_target_that_no_threshold_reaches_is_exit_1_and_nothing_is_stored(evaluate: Evaluate, model: Path) -> None:
    before = (model / "config.json").read_bytes()
    done = evaluate("--target-accuracy", "0.999", "--store-threshold")
    assert done.returncode == 1
    assert "no threshold reaches --target-accuracy 0.999, and none was stored" in done.stderr.decode()
    assert json.loads(done.stdout)["coverage"]["target"]["chosen"] is None
    assert (model / "config.json").read_bytes() == before
    assert evaluate("--target-accuracy", "0.999").returncode == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--store-threshold",), "--store-threshold needs --target-accuracy"),
        (("--target-accuracy", "1"), "must be above 0 and below 1"),
        (("--target-accuracy", "nan"), "must be above 0 and below 1"),
        (("--target-accuracy", "0.9", "--store-threshold", "-m", "demo"), "Cannot store a threshold for demo"),
        (
            ("--target-accuracy", "0.9", "--store-threshold", "--preprocessing", "timm"),
            "--store-threshold cannot be combined with --preprocessing",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_any_work(
    evaluate: Evaluate, options: tuple[str, ...], words: str
) -> None:
    done = evaluate(*options)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
