"""``levit info``: its text and its JSON."""

import json
import re
from pathlib import Path

from levit_cli.model.tensors import count_parameters
from tests.support.binary import levit
from tests.support.random_weights import TINY


def test_info_reports_config_counts_preprocessing_and_hash(tiny_folder: Path) -> None:
    facts = json.loads(levit("info", tiny_folder, "--format", "json").stdout)
    assert facts["parameters"] == count_parameters(TINY)
    assert facts["macs"] == TINY.macs
    assert facts["config"]["image_size"] == [64, 64]
    assert facts["dialect"] == "hf"
    assert facts["preprocessing"]["name"] == "hf"
    assert len(facts["sha256"]) == 64
    text = levit("info", tiny_folder).stdout.decode()
    assert f"{TINY.macs:,}" in text
    assert facts["sha256"] in text


def test_info_of_the_demo_model() -> None:
    text = levit("info", "demo").stdout.decode()
    assert re.search(r"temperature    0\.\d+ \(divides the logits\)", text)  # calibrated
    assert "airplane" in text
    assert re.search(r"top-1 0\.(?:8[89]|9\d)\d* on 5,000 images", text)
