"""The front matter of model cards is valid YAML, whatever the names are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from levit_cli.checkpoints import Evaluation, load
from levit_cli.checkpoints.model_card import model_card
from levit_cli.data.labels import Labels
from tests.support.binary import environment, installed_levit

HOSTILE = ["a: b", "--- x", "x | y", "'\"", "# c", "line\nbreak", "{}", "\x1b[31m", "caf\udce9", "null"]


def front_matter(card: str) -> dict[str, Any]:
    """Return the front matter as the hub reads it."""
    return vars(ModelCard(card).data)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_not_break_the_front_matter_or_the_table(name: str) -> None:
    checkpoint = replace(load("demo"), evaluation=Evaluation(name, 12, 0.75))
    card = model_card(replace(checkpoint, labels=Labels((name,) * 10)), "hf", "float32")
    front = front_matter(card)
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "image-classification")
    (result,) = front["eval_results"]
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.75)
    assert card.encode().count(b"| top-1 |") == 1
    table = card[card.index("| | |") :].splitlines()
    assert all(line.startswith(("| ", "|---")) for line in table)


def test_without_an_accuracy_the_card_states_none() -> None:
    card = model_card(replace(load("demo"), evaluation=None), "timm", "float16")
    assert not front_matter(card).get("eval_results")
    assert front_matter(card)["library_name"] == "timm"


def test_an_invalid_variable_of_the_hub_is_named_before_anything_is_written(tmp_path: Path) -> None:
    done = installed_levit(
        "convert-checkpoint", "demo", "--to", "hf", "-o", tmp_path / "out", env=environment(HF_HUB_ETAG_TIMEOUT="soon")
    )
    assert done.returncode == 2, done.stderr.decode()
    assert b"HF_" in done.stderr
    assert not any((tmp_path / "out").glob("*"))
