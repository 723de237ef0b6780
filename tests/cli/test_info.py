"""``levit info``: its text and its JSON."""

import json
import re
from pathlib import Path

import pytest

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


@pytest.mark.guarantee("impossible-options")
@pytest.mark.parametrize("command", [("info",), ("convert-checkpoint", "-o", "out", "--to", "hf")])
def test_a_hash_for_a_model_that_is_no_url_is_exit_2(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = levit(*command, "demo", "--sha256", "96703c44", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: --sha256 has no effect on the model demo")
    assert list(tmp_path.iterdir()) == []


def test_info_of_the_demo_model() -> None:
    text = levit("info", "demo").stdout.decode()
    assert re.search(r"temperature    0\.\d+ \(divides the logits\)", text)  # calibrated
    assert "airplane" in text
    assert re.search(r"top-1 0\.(?:8[89]|9\d)\d* on 5,000 images", text)
