"""Model selection, verdicts, documents, comparison and option checks of ``levit bench``, with given speeds.

``cli/test_bench.py`` tests the command.
"""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from levit_cli.bench.compare import Comparison, compare, read_earlier_run
from levit_cli.bench.end_to_end import images_of
from levit_cli.bench.models import RandomWeights, Selection, select_baselines, select_levits
from levit_cli.bench.paper import CLAIMS, OTHER_TOP1, PUBLISHED
from levit_cli.bench.protocol import PROTOCOLS
from levit_cli.bench.results import Row, as_csv, as_json, verdicts
from levit_cli.bench.run import Outputs, bench
from levit_cli.bench.runners import protocol_spec
from levit_cli.bench.table import as_table
from levit_cli.checkpoints import load
from levit_cli.choices import BASELINES, BenchProtocol
from levit_cli.data.skipped import Skipped
from levit_cli.engines import EngineSpec
from levit_cli.errors import LevitError, OutputError, UsageError
from levit_cli.model.config import VARIANTS
from levit_cli.predict.reader import read_image
from tests.support.archives import tar_of_folder, zip_of_folder
from tests.support.extras import needs_plot
from tests.support.measured import META, SPEC, bench_model, row
from tests.support.sample_images import write_images

ROW_KEYS = [
    *("model", "engine", "precision", "batch_size", "threads", "images_per_s", "p50_ms", "p90_ms"),
    *("cv", "params", "macs", "paper"),
]


def text_of(rows: list[Row], comparisons: list[Comparison] | None = None) -> str:
    return as_table(META, rows, comparisons, (), color=False).decode()


def test_the_default_models_are_the_five_variants_and_the_baselines_of_their_claims() -> None:
    models = select_levits((), load)
    assert [model.name for model in models] == list(VARIANTS)
    assert {model.name for model in select_baselines(None, models)} == {claim.slow for claim in CLAIMS}
    assert [model.name for model in select_baselines(None, [bench_model("levit-192")])] == ["efficientnet_b2"]


def test_a_variant_gets_random_weights_and_any_other_model_is_loaded() -> None:
    first, second, demo = select_levits(("LEVIT-128s", "levit-128S", "levit-256", "demo"), load)
    assert (first.name, second.name) == ("levit-128S", "levit-256")
    assert isinstance(first.weights, RandomWeights)
    assert demo.published is None  # small images and ten classes, which the paper did not measure
    assert select_baselines(None, [demo]) == []


def test_random_weights_are_complete_and_give_finite_logits_of_moderate_size() -> None:
    from levit_cli.engines import make_engine

    weights = RandomWeights(replace(VARIANTS["levit-128S"], image_size=(64, 64)))
    logits = make_engine(weights, replace(SPEC, batch_size=1))(np.zeros((1, 64, 64, 3), np.uint8))
    assert np.isfinite(logits).all()
    assert 1e-2 < np.abs(logits).max() < 1e2


def test_baseline_names_ignore_case_and_an_unknown_one_is_a_usage_error() -> None:
    assert [model.name for model in select_baselines("ResNet50, deit-tiny", [])] == ["resnet50", "deit_tiny"]
    assert [model.name for model in select_baselines(",".join(BASELINES), [])] == list(BASELINES)
    for unknown in ("efficientnet_b9", "resnet50,", ""):
        with pytest.raises(UsageError, match="Unknown baseline"):
            select_baselines(unknown, [])


def test_a_claim_holds_if_the_ratio_is_at_least_the_papers() -> None:
    (claim,) = (claim for claim in CLAIMS if claim.fast == "levit-192")
    (holds,) = verdicts([row("levit-192", 500, 600, 550), row("efficientnet_b2", 100, 100, 110)])
    assert holds.paper_ratio == pytest.approx(claim.xeon_ratio)
    assert (holds.measured_ratio, holds.lowest, holds.highest) == pytest.approx((5.5, 5.0, 6.0))
    assert holds.holds
    assert holds.rounds_agree
    (fails,) = verdicts([row("efficientnet_b2", 100), row("levit-192", 490)])
    assert not fails.holds


def test_a_verdict_is_unsure_if_the_rounds_disagree() -> None:
    rows = [row("levit-192", 500, 550, 480), row("efficientnet_b2", 100, 100, 100)]
    (verdict,) = verdicts(rows)
    assert verdict.holds
    assert not verdict.rounds_agree
    assert "holds, unsure" in text_of(rows)


def test_a_claim_is_compared_with_the_papers_machine_of_the_same_kind() -> None:
    (verdict,) = verdicts([row("levit-256", 520, hardware="v100"), row("efficientnet_b3", 100, hardware="v100")])
    assert verdict.paper_ratio == pytest.approx(5.18, abs=0.01)
    assert verdict.holds


def test_a_claim_gets_a_verdict_only_if_both_models_were_measured() -> None:
    rows = [row(name, 100) for name in PUBLISHED]
    assert [verdict.claim for verdict in verdicts(rows)] == list(CLAIMS)
    assert verdicts(rows[:5]) == []


def test_the_json_document_has_the_documented_keys() -> None:
    rows = [row("levit-128S", 400, 410), row("efficientnet_b0", 100, 100), row("resnet50", 33.3333333)]
    document = json.loads(as_json(META, rows))
    assert list(document) == ["schema_version", "meta", "results", "claims"]
    assert document["schema_version"] == 1
    assert {"machine", "cpu", "threads", "versions", "protocol"} <= set(document["meta"])
    assert [list(record) for record in document["results"]] == [ROW_KEYS] * 3
    first, _, last = document["results"]
    assert first["paper"] == {
        "top1": 76.6,
        "images_per_s": 131.084,
        "hardware": "Intel Xeon 6138, one thread, batch 16, fp32",
    }
    assert last["paper"] is None
    assert last["images_per_s"] == pytest.approx(33.3333, rel=1e-4)
    (claim,) = document["claims"]
    assert list(claim) == ["fast", "slow", "paper_ratio", "measured_ratio", "holds"]
    assert claim["measured_ratio"] == pytest.approx(first["images_per_s"] / 100, rel=1e-4)


def test_csv_has_a_line_for_each_model() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv([row("levit-128S", 400), row("resnet50", 33)]).decode())))
    assert [line["model"] for line in lines] == ["levit-128S", "resnet50"]
    assert lines[0]["paper_top1"] == "76.6"
    assert lines[1]["paper_images_per_s"] == ""


def test_the_table_shows_measured_and_published_speeds_and_their_ratios() -> None:
    text = text_of([row("levit-128S", 404, 404), row("efficientnet_b0", 100, 101)])
    line = next(line for line in text.splitlines() if line.startswith("levit-128S"))
    assert line.split()[1] == "404.0"
    assert "131.1" in line
    unwrapped = " ".join(text.split())
    assert "on Intel Xeon 6138, one thread, batch 16, fp32" in unwrapped
    assert "Speeds of different machines cannot be compared; speed ratios can." in unwrapped
    assert "4.36x 4.02x 4.00–4.04 less" in unwrapped
    assert "unstable" not in text


def test_an_unstable_row_is_marked() -> None:
    assert "unstable" in text_of([row("levit-128S", 400, 300, 500)])


def test_the_table_fits_into_80_columns() -> None:
    rows = [row(name, 1234.5, 700.1) for name in PUBLISHED]
    assert max(map(len, text_of(rows).splitlines())) <= 80


def test_only_rows_with_the_same_settings_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    before = [row("levit-128S", 200), row("levit-256", 100), row("resnet50", 50, spec=replace(SPEC, threads=1))]
    path.write_bytes(as_json(META, before))
    now = [row("levit-256", 80), row("levit-128S", 300), row("resnet50", 50)]
    comparisons = compare(now, read_earlier_run(path))
    assert [(each.key.model, each.ratio) for each in comparisons] == [("levit-256", 0.8), ("levit-128S", 1.5)]
    assert "0.80x" in text_of(now, comparisons)
    unwrapped = " ".join(text_of(now, []).split())
    assert "No model ran in both runs with the same engine, precision, batch size and number of threads" in unwrapped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "no schema_version 1"),
        (b'{"schema_version": 2, "results": []}', "no schema_version 1"),
        (b'{"schema_version": 1, "results": []}', "no results"),
        (b'{"schema_version": 1, "results": [7]}', "a result lacks"),
        (b'{"schema_version": 1, "results": [{"model": "x", "images_per_s": 1}]}', "a result lacks"),
        (as_json(META, [row("levit-128S", 9)]).replace(b'"images_per_s": 9.0', b'"images_per_s": 0'), "a result lacks"),
    ],
)
def test_a_file_that_is_no_benchmark_result_is_a_usage_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "before.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_earlier_run(path)


def test_an_earlier_run_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_earlier_run(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="Cannot read"):
        read_earlier_run(tmp_path)


MISSING = Path("unlikely-to-exist")


def run_bench(
    selection: Selection | None = None,
    protocol: BenchProtocol = "quick",
    outputs: Outputs | None = None,
    **options: Any,
) -> None:
    bench(selection or Selection(), EngineSpec(), None, PROTOCOLS[protocol], outputs or Outputs(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail_below": 0.9}, "add --compare"),
        ({"fail_below": 0, "compare_with": MISSING}, "--fail-below 0"),
        ({"fail_below": float("nan"), "compare_with": MISSING}, "--fail-below nan"),
        ({"selection": Selection(against="resnet50", no_baselines=True)}, "contradict each other"),
        ({"fail_below": 0.9, "protocol": "paper", "folder": MISSING}, r"has 2 faults.*add --compare FILE.*leave"),
        ({"protocol": "paper", "folder": MISSING}, "leave --protocol out"),
        ({"folder": MISSING}, "unlikely-to-exist is not a folder"),
        ({"outputs": Outputs(plot=Path("speed.jpg"))}, "ends in .png or .svg"),
        ({"compare_with": MISSING}, "Cannot read unlikely-to-exist"),
    ],
)
def test_wrong_options_are_usage_errors_before_a_model_is_loaded(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("levit_cli.bench.run.select_models", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(UsageError, match=message):
        run_bench(**options)


@pytest.mark.parametrize(
    ("outputs", "kind", "message"),
    [
        (Outputs(plot=Path("speed.jpg")), UsageError, "ends in .png or .svg"),
        (Outputs(plot=MISSING / "speed.svg"), OutputError, "its folder does not exist"),
        (Outputs(MISSING / "speed.json"), OutputError, "its folder does not exist"),
        (Outputs(Path("tests")), OutputError, "it is a folder"),
        (Outputs(Path("a.svg"), plot=Path("a.svg")), UsageError, "name the same file"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error(outputs: Outputs, kind: type[LevitError], message: str) -> None:
    with pytest.raises(kind, match=message):
        outputs.require_free()


def test_an_existing_output_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text("kept")
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        Outputs(path).require_free()
    Outputs(path, overwrite=True).require_free()
    with pytest.raises(UsageError, match="also an input"):
        Outputs(path, overwrite=True).require_free([path])
    plot = tmp_path / "speed.svg"
    plot.write_text("kept")
    with pytest.raises(UsageError, match="also an input"):
        Outputs(tmp_path / "now.json", plot=plot, overwrite=True).require_free([plot])


def test_the_suffix_determines_the_format_unless_it_is_named() -> None:
    assert Outputs().chosen_format() == "table"
    assert Outputs(Path("a.CSV")).chosen_format() == "csv"
    assert Outputs(Path("a.csv"), "json").chosen_format() == "json"
    with pytest.raises(UsageError, match="No output format matches the suffix"):
        Outputs(Path("a.md")).chosen_format()


def test_the_paper_protocol_defaults_to_torch_one_thread_and_fp32() -> None:
    assert protocol_spec(EngineSpec(), "paper") == EngineSpec("cpu", "torch", "auto", 1)
    named = EngineSpec("auto", "openvino", "auto", 2)
    assert protocol_spec(named, "paper") == replace(named, precision="fp32")
    assert protocol_spec(EngineSpec(device="cuda"), "paper").device == "cuda"
    assert protocol_spec(named, "quick") == named


@needs_plot
def test_the_figure_shows_the_three_families_of_models() -> None:
    from levit_cli.bench.plot import draw

    rows = [row(name, 3000 / (number + 1)) for number, name in enumerate(PUBLISHED)]
    svg = draw([*rows, row("resnet50", 5)], META, "svg")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == draw([*rows, row("resnet50", 5)], META, "svg")
    image = Image.open(io.BytesIO(draw(rows, META, "png"))).convert("RGB")
    assert min(image.size) > 500
    colors = {color for _, color in image.getcolors(maxcolors=1 << 20) or []}
    assert {(37, 99, 168), (217, 115, 13), (47, 125, 79)} <= colors  # a line for each of the three families
    assert draw([row("levit-256", 100)], META, "png").startswith(b"\x89PNG")


@needs_plot
def test_the_figure_shows_resnet50_with_the_accuracy_that_torchvision_publishes() -> None:
    from levit_cli.bench.plot import draw, short_name

    without, with_resnet = (draw([row("levit-256", 100), *more], META, "svg") for more in ([], [row("resnet50", 40)]))
    assert b"ResNet, torchvision" not in without
    assert b"ResNet, torchvision" in with_resnet
    assert OTHER_TOP1["resnet50"] == 80.858
    assert short_name("resnet50") == "50"


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_the_images_of_an_archive_are_those_of_its_folder(suffix: str, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    path = (zip_of_folder if suffix == ".zip" else tar_of_folder)(tmp_path / f"x{suffix}", tmp_path / "photos")
    skipped = Skipped()
    folder, archive = (images_of(source, skipped) for source in (tmp_path / "photos", path))
    assert [item.path.rpartition("/")[2] for item in archive] == ["000.jpg", "001.jpg", "002.jpg"]
    assert [read_image(item).tobytes() for item in archive] == [read_image(item).tobytes() for item in folder]
