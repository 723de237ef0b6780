"""What ``levit bench`` makes of its measurements, on invented ones; the command itself is in ``cli/test_bench.py``."""

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

from levit_cli.bench.compare import compare, read_earlier
from levit_cli.bench.models import RandomWeights, baselines, levits
from levit_cli.bench.paper import CLAIMS, PUBLISHED
from levit_cli.bench.request import Request, check, format_of, protocol_of, spec_of
from levit_cli.bench.results import Row, as_csv, as_json, verdicts
from levit_cli.bench.table import as_table
from levit_cli.checkpoints import load
from levit_cli.choices import BASELINES
from levit_cli.engines import EngineSpec
from levit_cli.errors import LevitError, OutputError, UsageError
from levit_cli.model.config import VARIANTS
from tests.support.measured import META, SPEC, net, row

ROW_KEYS = [
    *("model", "engine", "precision", "batch_size", "threads", "images_per_s", "p50_ms", "p90_ms"),
    *("cv", "params", "macs", "paper"),
]


def text_of(rows: list[Row], **more: Any) -> str:
    return as_table(META, rows, more.get("compared"), (), color=False).decode()


def test_without_names_the_five_variants_run_and_the_baselines_of_their_claims() -> None:
    nets = levits((), load)
    assert [each.name for each in nets] == list(VARIANTS)
    assert {each.name for each in baselines(None, nets)} == {claim.slow for claim in CLAIMS}
    assert [each.name for each in baselines(None, [net("levit-192")])] == ["efficientnet_b2"]


def test_a_variant_has_random_weights_and_any_other_model_is_loaded(tmp_path: Path) -> None:
    first, second, demo = levits(("LEVIT-128s", "levit-128S", "levit-256", "demo"), load)
    assert (first.name, second.name) == ("levit-128S", "levit-256")
    assert isinstance(first.made_of, RandomWeights)
    assert demo.published is None  # small images and ten classes: not what the paper measured
    assert baselines(None, [demo]) == []


def test_random_weights_leave_no_tensor_out_and_keep_activations_in_bounds() -> None:
    from levit_cli.engines import make_engine

    weights = RandomWeights(replace(VARIANTS["levit-128S"], image_size=(64, 64)))
    logits = make_engine(weights, replace(SPEC, batch_size=1))(np.zeros((1, 64, 64, 3), np.uint8))
    assert np.isfinite(logits).all()
    assert 1e-2 < np.abs(logits).max() < 1e2


def test_baselines_are_found_by_name_in_any_case_and_an_unknown_one_is_a_usage_error() -> None:
    assert [each.name for each in baselines("ResNet50, deit-tiny", [])] == ["resnet50", "deit_tiny"]
    assert [each.name for each in baselines(",".join(BASELINES), [])] == list(BASELINES)
    for wrong in ("efficientnet_b9", "resnet50,", ""):
        with pytest.raises(UsageError, match="There is no baseline"):
            baselines(wrong, [])


def test_a_claim_holds_where_the_ratio_is_at_least_the_papers() -> None:
    (claim,) = (claim for claim in CLAIMS if claim.fast == "levit-192")
    (good,) = verdicts([row("levit-192", 500, 600, 550), row("efficientnet_b2", 100, 100, 110)])
    assert good.paper_ratio == pytest.approx(claim.xeon_ratio)
    assert (good.measured_ratio, good.lowest, good.highest) == pytest.approx((5.5, 5.0, 6.0))
    assert good.holds
    assert good.is_sure
    (poor,) = verdicts([row("efficientnet_b2", 100), row("levit-192", 490)])
    assert not poor.holds
    (shaky,) = verdicts([row("levit-192", 500, 550, 480), row("efficientnet_b2", 100, 100, 100)])
    assert shaky.holds
    assert not shaky.is_sure
    assert "holds, unsure" in text_of([row("levit-192", 500, 550, 480), row("efficientnet_b2", 100, 100, 100)])


def test_a_claim_is_held_against_the_papers_machine_of_this_kind() -> None:
    (verdict,) = verdicts([row("levit-256", 520, hardware="v100"), row("efficientnet_b3", 100, hardware="v100")])
    assert verdict.paper_ratio == pytest.approx(5.18, abs=0.01)
    assert verdict.holds


def test_all_claims_are_judged_where_all_nets_ran_and_none_where_one_is_missing() -> None:
    rows = [row(name, 100) for name in PUBLISHED]
    assert [verdict.claim for verdict in verdicts(rows)] == list(CLAIMS)
    assert verdicts(rows[:5]) == []


def test_the_document_has_the_keys_of_the_contract() -> None:
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


def test_csv_has_a_line_for_each_net() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv([row("levit-128S", 400), row("resnet50", 33)]).decode())))
    assert [line["model"] for line in lines] == ["levit-128S", "resnet50"]
    assert lines[0]["paper_top1"] == "76.6"
    assert lines[1]["paper_images_per_s"] == ""


def test_the_table_shows_measured_beside_published_and_what_compares() -> None:
    text = text_of([row("levit-128S", 404, 404), row("efficientnet_b0", 100, 101)])
    line = next(line for line in text.splitlines() if line.startswith("levit-128S"))
    assert line.split()[1] == "404.0"
    assert "131.1" in line
    flowing = " ".join(text.split())
    assert "on Intel Xeon 6138, one thread, batch 16, fp32" in flowing
    assert "Absolute speeds of another machine do not compare; ratios do." in flowing
    assert "4.36x 4.02x 4.00–4.04 less" in flowing
    assert "unstable" not in text


def test_an_unstable_row_is_called_so() -> None:
    assert "unstable" in text_of([row("levit-128S", 400, 300, 500)])


def test_no_line_of_the_table_is_wider_than_80_columns() -> None:
    rows = [row(name, 1234.5, 700.1) for name in PUBLISHED]
    assert max(map(len, text_of(rows).splitlines())) <= 80


def test_a_run_is_compared_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    before = [row("levit-128S", 200), row("levit-256", 100), row("resnet50", 50, spec=replace(SPEC, threads=1))]
    path.write_bytes(as_json(META, before))
    now = [row("levit-256", 80), row("levit-128S", 300), row("resnet50", 50)]
    compared = compare(now, read_earlier(path))
    assert [(each.key.model, each.ratio) for each in compared] == [("levit-256", 0.8), ("levit-128S", 1.5)]
    assert "0.80x" in text_of(now, compared=compared)
    assert "No net was measured in both" in text_of(now, compared=[])


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_what_is_no_earlier_run_is_a_usage_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "before.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_earlier(path)


def test_an_earlier_run_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_earlier(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="Cannot read"):
        read_earlier(tmp_path)


HERE = Path("unlikely-to-exist")


@pytest.mark.parametrize(
    ("request_", "kind", "said"),
    [
        (Request(duration_s=0), UsageError, "--duration 0 makes no sense"),
        (Request(duration_s=-1), UsageError, "--duration -1"),
        (Request(duration_s=float("nan")), UsageError, "--duration nan"),
        (Request(duration_s=float("inf")), UsageError, "--duration inf"),
        (Request(warmup_s=-0.5), UsageError, "must be 0 or more"),
        (Request(fail_below=0.9), UsageError, "add --compare"),
        (Request(fail_below=0, compare=HERE), UsageError, "--fail-below 0"),
        (Request(against="resnet50", no_baselines=True), UsageError, "take one of the two"),
        (Request(plot=Path("speed.jpg")), UsageError, "end it in .png or .svg"),
        (Request(plot=HERE / "speed.svg"), OutputError, "its folder does not exist"),
        (Request(output=HERE / "speed.json"), OutputError, "its folder does not exist"),
        (Request(output=Path("tests")), OutputError, "it is a folder"),
        (Request(output=Path("a.svg"), plot=Path("a.svg")), UsageError, "are both"),
        (Request(end_to_end=HERE, protocol="paper"), UsageError, "leave --protocol out"),
    ],
)
def test_what_cannot_be_is_found_before_anything_is_measured(
    request_: Request, kind: type[LevitError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        check(request_)


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text("kept")
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        check(Request(output=path))
    check(Request(output=path, overwrite=True))
    with pytest.raises(UsageError, match="also an input"):
        check(Request(output=path, compare=path, overwrite=True))


def test_the_format_is_the_suffix_unless_named() -> None:
    assert format_of(Request()) == "table"
    assert format_of(Request(output=Path("a.CSV"))) == "csv"
    assert format_of(Request(output=Path("a.csv"), format="json")) == "json"
    with pytest.raises(UsageError, match="names no format"):
        format_of(Request(output=Path("a.md")))


def test_the_papers_protocol_means_torch_one_thread_and_fp32_where_nothing_is_named() -> None:
    assert spec_of(Request(protocol="paper")) == EngineSpec("cpu", "torch", "auto", 1)
    asked = EngineSpec("auto", "openvino", "auto", 2)
    assert spec_of(Request(protocol="paper", spec=asked)) == replace(asked, precision="fp32")
    assert spec_of(Request(protocol="paper", spec=EngineSpec(device="cuda"))).device == "cuda"
    assert spec_of(Request(spec=asked)) == asked
    assert protocol_of(Request(protocol="paper", duration_s=5)).warmup_s == 10


def test_the_image_shows_every_net_with_a_published_accuracy_and_the_claims() -> None:
    from levit_cli.bench.plot import draw

    rows = [row(name, 3000 / (number + 1)) for number, name in enumerate(PUBLISHED)]
    svg = draw([*rows, row("resnet50", 5)], META, "svg")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == draw([*rows, row("resnet50", 5)], META, "svg")
    image = Image.open(io.BytesIO(draw(rows, META, "png"))).convert("RGB")
    assert min(image.size) > 500
    colours = {colour for _, colour in image.getcolors(maxcolors=1 << 20) or []}
    assert {(37, 99, 168), (217, 115, 13), (47, 125, 79)} <= colours  # a line for each of the three families
    assert draw([row("levit-256", 100)], META, "png").startswith(b"\x89PNG")
