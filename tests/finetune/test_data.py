"""Which images a run sees, in which order, and what becomes of bad ones."""

from pathlib import Path

import pytest
import torch

from levit_cli.data.inputs import Input
from levit_cli.errors import RefusedError, UsageError
from levit_cli.finetune.data import (
    EpochBatches,
    LostImageError,
    TrainingImages,
    ValidationImages,
    training_loader,
    validation_loader,
)
from levit_cli.finetune.settings import Settings
from levit_cli.finetune.split import find_images, look_through
from levit_cli.images.transforms import transform_for
from levit_cli.predict.reader import Reader
from tests.finetune.sets import COLOURS, write_set


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    split = find_images(write_set(tmp_path, 4, 2), 0.5, 0)
    assert (split.classes, len(split.train), len(split.val)) == (("blue", "green", "red"), 12, 6)
    assert {path.parent.parent.name for path, _ in split.val} == {"val"}


def test_a_split_is_stratified_and_the_same_each_time(tmp_path: Path) -> None:
    root = write_set(tmp_path, 10, 1) / "train"
    split, again, other = (find_images(root, 0.3, seed) for seed in (0, 0, 1))
    assert split == again != other
    assert [sum(target == number for _, target in split.val) for number in range(3)] == [3, 3, 3]
    assert set(split.train).isdisjoint(split.val)
    assert len(split.train) == 21


def test_a_share_too_small_still_keeps_one_of_each(tmp_path: Path) -> None:
    split = find_images(write_set(tmp_path, 4, 1) / "train", 0.001, 0)
    assert len(split.val) == 3


@pytest.mark.guarantee("training-classes")
def test_one_class_is_no_data_set(tmp_path: Path) -> None:
    root = write_set(tmp_path, 2, 1) / "train"
    (tmp_path / "one").mkdir()
    (root / "red").rename(tmp_path / "one" / "red")
    with pytest.raises(UsageError, match="one class only"):
        find_images(tmp_path / "one", 0.5, 0)


@pytest.mark.guarantee("training-classes")
def test_val_classes_that_train_lacks_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, 2, 2)
    (root / "val" / "red").rename(root / "val" / "pink")
    with pytest.raises(UsageError, match="pink"):
        find_images(root, 0.5, 0)


@pytest.mark.guarantee("training-unreadable-images")
def test_unreadable_images_are_listed_and_left_out(tmp_path: Path) -> None:
    root = write_set(tmp_path, 4, 2)
    bad = root / "train" / "red" / "000.png"
    bad.write_bytes(bad.read_bytes()[:200])
    split = look_through(find_images(root, 0.1, 0), max_unreadable=0.1)
    ((path, problem),) = split.bad
    assert path == bad
    assert problem.startswith("truncated")
    assert len(split.train) == 11


@pytest.mark.guarantee("training-unreadable-images")
def test_too_many_unreadable_images_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, 4, 2)
    (root / "train" / "red" / "000.png").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"1 of 18 .*000\.png: empty_file"):
        look_through(find_images(root, 0.1, 0), max_unreadable=0.01)


@pytest.mark.guarantee("training-classes")
def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, 2, 2)
    for path in (root / "train" / "red").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(RefusedError, match="left of red"):
        look_through(find_images(root, 0.1, 0), max_unreadable=1.0)


def test_every_image_is_in_an_epoch_once_whatever_the_number_of_processes() -> None:
    settings = Settings(batch_size=8)
    whole = list(EpochBatches(32, settings, 3, 0))
    halves = [list(EpochBatches(32, settings, 3, 0, rank, 2)) for rank in (0, 1)]
    assert sorted(number for batch in whole for _, _, number in batch) == list(range(32))
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]


def test_an_epoch_can_begin_in_its_middle_and_differs_from_the_next() -> None:
    settings = Settings(batch_size=8)
    assert list(EpochBatches(32, settings, 3, 2)) == list(EpochBatches(32, settings, 3, 0))[2:]
    first, second = (
        [number for batch in EpochBatches(32, settings, epoch, 0) for *_, number in batch] for epoch in (0, 1)
    )
    assert first != second


def test_repeats_show_an_image_so_often_in_an_epoch_of_the_same_length() -> None:
    numbers = [
        number
        for batch in EpochBatches(30, Settings(batch_size=10, repeated_augmentation=3), 0, 0)
        for *_, number in batch
    ]
    assert len(numbers) == 30
    assert len(set(numbers)) == 10


def test_augmentation_depends_on_seed_epoch_and_place_only(tmp_path: Path) -> None:
    split = find_images(write_set(tmp_path, 4, 2), 0.1, 0)
    settings = Settings(batch_size=6, rand_augment=9, erasing=0.5)
    images = TrainingImages(split.train, settings, (32, 48))
    batches = EpochBatches(len(split.train), settings, 0, 0)
    torch.manual_seed(1)
    alone = [pixels for pixels, _ in training_loader(images, batches, 0)]
    torch.manual_seed(2)
    helped = [pixels for pixels, _ in training_loader(images, batches, 2)]
    assert alone[0].shape == (6, 3, 32, 48)
    assert alone[0].dtype == torch.uint8
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))
    assert not torch.equal(images[(0, 0, 0)][0], images[(1, 0, 0)][0])


def test_validation_sees_what_predict_sees_each_image_once(tmp_path: Path) -> None:
    split, transform = find_images(write_set(tmp_path, 4, 3), 0.1, 0), transform_for("hf", (48, 48))
    images = ValidationImages(split.val, transform)
    path, target = split.val[4]
    pixels, found = images[4]
    assert found == target
    assert (pixels.permute(1, 2, 0).numpy() == Reader(transform)(Input(str(path)))).all()
    parts = [
        [t for _, targets in validation_loader(images, 2, 0, rank, 2) for t in targets.tolist()] for rank in (0, 1)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(target for _, target in split.val)
    assert len(COLOURS) == 3


@pytest.mark.guarantee("training-unreadable-images")
def test_an_image_that_vanishes_is_not_replaced(tmp_path: Path) -> None:
    split = find_images(write_set(tmp_path, 4, 2), 0.1, 0)
    images = TrainingImages(split.train, Settings(), (32, 32))
    split.train[0][0].unlink()
    with pytest.raises(LostImageError, match="no such file"):
        images[(0, 0, 0)]
