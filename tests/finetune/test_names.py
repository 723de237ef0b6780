"""Names of classes that could be mistaken for something else. What is saved reads back the same everywhere."""

import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from levit_cli.checkpoints import load, save
from levit_cli.data.labels import Labels
from levit_cli.errors import UsageError
from levit_cli.finetune.split import find_images
from tests.finetune.sets import SMALL
from tests.finetune.test_run import run
from tests.support.binary import levit
from tests.support.random_weights import random_state
from tests.support.sample_images import write_class_folders

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
HOSTILE = (
    *("LABEL_0", "LABEL_1", "10", "2", " tea ", "a,b", "c\td", "e\nf", "g|h", "null", COMPOSED),
    *("[red]x[/red]", "x'\"y"),
)


def checkpoint_with(names: Sequence[str], folder: Path) -> Path:
    """Save a small model with these classes."""
    config = replace(SMALL, num_classes=len(names))
    checkpoint = replace(load("demo"), config=config, labels=Labels(tuple(names)), state=random_state(config))
    checkpoint = replace(checkpoint, transform=replace(checkpoint.transform, crop_size=(48, 48), resize_to=(54, 54)))
    save(checkpoint, folder, "hf", card="")
    return folder


@pytest.mark.guarantee("class-names")
@pytest.mark.parametrize("names", [("bus", "car", "train"), ("test", "train"), ("val", "valid", "x"), ("train", "car")])
def test_classes_called_like_splits_are_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    split = find_images(write_class_folders(tmp_path, names, 4), 0.25, 0)
    assert split.classes == tuple(sorted(names))
    assert not split.has_val_folder
    assert (len(split.train), len(split.val)) == (3 * len(names), len(names))


@pytest.mark.guarantee("class-names")
def test_a_split_needs_both_halves_with_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("train/a", "train/b"), 2)
    with pytest.raises(UsageError, match="has no val/ or test/ with class folders"):
        find_images(tmp_path, 0.5, 0)
    write_class_folders(tmp_path, ("val/a", "val/b", "notes"), 2)
    split = find_images(tmp_path, 0.5, 0)
    assert split.classes == ("a", "b")
    assert split.skipped.counts == {"no class": 1}


@pytest.mark.guarantee("class-names")
def test_composed_and_decomposed_names_of_train_and_val_are_one_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path, (f"train/{DECOMPOSED}", "train/tea", f"val/{COMPOSED}", "val/tea"), 3)
    split = find_images(tmp_path, 0.1, 0)
    assert split.classes == (COMPOSED, "tea")
    assert sorted(index for _, index in split.val) == [0, 0, 0, 1, 1, 1]


@pytest.mark.guarantee("class-names")
@pytest.mark.skipif(sys.platform == "darwin", reason="the file system composes the names")
def test_two_folders_with_the_same_name_in_unicode_are_refused_by_name(tmp_path: Path) -> None:
    write_class_folders(tmp_path, (DECOMPOSED, COMPOSED, "tea"), 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path, 0.5, 0)
    assert ascii(COMPOSED) in str(caught.value)
    assert ascii(DECOMPOSED) in str(caught.value)
    assert "empty" in str(caught.value)


@pytest.mark.guarantee("class-names")
@pytest.mark.skipif(sys.platform != "linux", reason="the file system refuses such names")
def test_names_that_are_not_utf8_are_refused_before_training(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("tea", os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff")), 2)
    with pytest.raises(UsageError, match=r"not UTF-8: .*caf\\udce9, \\udcff") as caught:
        find_images(tmp_path, 0.5, 0)
    str(caught.value).encode()


@pytest.mark.guarantee("class-names")
@pytest.mark.parametrize("format", ["hf", "timm"])
def test_hostile_names_survive_conversion_to_each_format(format: str, tmp_path: Path) -> None:
    folder = checkpoint_with(HOSTILE, tmp_path / "model")
    assert load(folder).labels.names == HOSTILE
    done = levit("convert-checkpoint", folder, "--to", format, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr.decode()
    assert load(tmp_path / "out").labels.names == HOSTILE


@pytest.mark.guarantee("class-names")
def test_two_classes_called_like_generated_labels_are_kept(tmp_path: Path) -> None:
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    folder = checkpoint_with(names, tmp_path / "model")
    assert load(folder).labels.names == names
    data = write_class_folders(tmp_path / "data", names, 2)
    done = levit("eval", data, "-m", folder, "--format", "json")
    assert done.returncode == 0, done.stderr.decode()
    assert [entry["index"] for entry in json.loads(done.stdout)["classes"]] == [0, 1, 2]


def test_placeholders_of_transformers_are_no_names(tmp_path: Path) -> None:
    folder = checkpoint_with(("a", "b"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    del config["label2id"]
    config["levit_cli"] = {"temperature": 1.5}  # as eval --calibrate stores it in a file of another library
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).labels.names == ("class 0", "class 1")


@pytest.mark.guarantee("class-names")
def test_names_come_back_from_predict_and_eval_and_transformers(tmp_path: Path) -> None:
    folder = checkpoint_with(HOSTILE, tmp_path / "model")
    data = write_class_folders(tmp_path / "data", [name for name in HOSTILE if "/" not in name], 1)
    done = levit("predict", data, "-m", folder, "--format", "jsonl", "--top-k", str(len(HOSTILE)))
    assert done.returncode == 0, done.stderr.decode()
    for line in done.stdout.splitlines():
        assert {entry["label"] for entry in json.loads(line)["top"]} == set(HOSTILE)
    done = levit("eval", data, "-m", folder, "--format", "json")
    assert done.returncode == 0, done.stderr.decode()
    by_folder = {entry["folder"]: entry["index"] for entry in json.loads(done.stdout)["classes"]}
    assert by_folder == {name: HOSTILE.index(name) for name in sorted(by_folder)}
    transformers = pytest.importorskip("transformers")
    assert tuple(transformers.AutoConfig.from_pretrained(folder).id2label.values()) == HOSTILE


@pytest.mark.guarantee("class-names")
def test_a_run_with_such_names_and_a_folder_that_is_not_utf8(tmp_path: Path, architecture: Path) -> None:
    """The data set, the run folder and the classes have awkward names; the run is resumed and evaluated."""
    root = tmp_path / (os.fsdecode(b"d\xe9") if sys.platform == "linux" else "d")
    names = ("LABEL_1", "LABEL_0", "train", "a\nb", DECOMPOSED)
    write_class_folders(root, names, 4)
    run(root, root / "run", from_scratch=str(architecture), epochs=1, batch_size=5)
    classes = ("LABEL_0", "LABEL_1", "a\nb", COMPOSED, "train")
    assert load(root / "run").labels.names == classes
    lines = run(None, root / "run", resume=True)
    assert any("The run is finished" in line for line in lines)
    done = levit("eval", root, "-m", root / "run", "--format", "json")
    assert done.returncode == 0, done.stderr.decode()
    assert [entry["folder"] for entry in json.loads(done.stdout)["classes"]] == list(classes)
