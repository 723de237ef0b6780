"""Splitting, scanning, batching, augmentation and loading of the images."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from levit_cli.data.image_folder import ClassFolders
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
from levit_cli.finetune.split import find_images, scan, stratified
from levit_cli.images.transforms import transform_for
from levit_cli.predict.reader import Reader
from tests.finetune.sets import COLORS
from tests.support.format_files import files_of
from tests.support.sample_images import sample_image


def test_train_and_val_folders_are_used_as_given(dataset: Path) -> None:
    split = find_images(dataset, 0.5, 0)
    assert (split.classes, len(split.train), len(split.val)) == (("blue", "green", "red"), 12, 6)
    assert {Path(image.path).parent.parent.name for image, _ in split.val} == {"val"}


def test_random_split_is_stratified_and_depends_on_the_seed_only(images: Path) -> None:
    split, again, other_seed = (find_images(images / "train", 0.25, seed) for seed in (0, 0, 1))
    assert split == again != other_seed
    assert [sum(target == index for _, target in split.val) for index in range(3)] == [3, 3, 3]
    assert set(split.train).isdisjoint(split.val)
    assert len(split.train) == 27


def test_tiny_validation_fraction_keeps_one_image_per_class(dataset: Path) -> None:
    split = find_images(dataset / "train", 0.001, 0)
    assert sorted(target for _, target in split.val) == [0, 1, 2]


@pytest.mark.guarantee("training-classes")
def test_data_set_with_one_class_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (dataset / "train" / "red").rename(tmp_path / "one" / "red")
    with pytest.raises(UsageError, match="only one class, red"):
        find_images(tmp_path / "one", 0.5, 0)


def test_class_with_one_image_cannot_be_split(dataset: Path) -> None:
    for number in (1, 2, 3):
        (dataset / "train" / "red" / f"{number:03d}.png").unlink()
    with pytest.raises(UsageError, match="red has only 1 image"):
        find_images(dataset / "train", 0.5, 0)


@pytest.mark.guarantee("training-classes")
def test_validation_classes_missing_from_train_are_refused(dataset: Path) -> None:
    (dataset / "val" / "red").rename(dataset / "val" / "pink")
    with pytest.raises(UsageError, match="pink"):
        find_images(dataset, 0.5, 0)


@pytest.mark.guarantee("training-unreadable-images")
def test_unreadable_images_are_listed_and_excluded(dataset: Path) -> None:
    truncated = dataset / "train" / "red" / "000.png"
    truncated.write_bytes(truncated.read_bytes()[:200])
    split = scan(find_images(dataset, 0.1, 0), max_unreadable=0.1)
    ((path, problem),) = split.unreadable
    assert path == str(truncated)
    assert problem.startswith("truncated")
    assert len(split.train) == 11


@pytest.mark.guarantee("training-unreadable-images")
def test_too_many_unreadable_images_are_refused(dataset: Path) -> None:
    (dataset / "train" / "red" / "000.png").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"1 of 18 .*000\.png: empty_file"):
        scan(find_images(dataset, 0.1, 0), max_unreadable=0.01)


@pytest.mark.guarantee("training-classes")
def test_class_without_a_readable_image_is_refused(dataset: Path) -> None:
    for path in (dataset / "train" / "red").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(RefusedError, match="No readable image in class red"):
        scan(find_images(dataset, 0.1, 0), max_unreadable=1.0)


@pytest.mark.parametrize("num_classes", [3, 30])
def test_the_split_reads_the_list_of_images_a_fixed_number_of_times(num_classes: int) -> None:
    """The work is linear in the number of images: it does not read them again for each class."""

    class Counting(tuple[Any, ...]):
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            Counting.passes += 1
            return super().__iter__()

    samples = Counting((Input(f"{index}/{number}.png"), index) for index in range(num_classes) for number in range(5))
    classes = tuple(str(index) for index in range(num_classes))
    train, val = stratified(ClassFolders(Path(), classes, samples), 0.2, 0)
    assert Counting.passes == 3
    assert (len(train), len(val)) == (4 * num_classes, num_classes)


def test_an_epoch_has_each_image_once_for_any_number_of_processes() -> None:
    settings = Settings(batch_size=8)
    whole = list(EpochBatches(32, settings, 3, 0))
    halves = [list(EpochBatches(32, settings, 3, 0, rank, 2)) for rank in (0, 1)]
    assert sorted(index for batch in whole for _, _, index in batch) == list(range(32))
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]


def test_an_epoch_can_start_at_any_step_and_differs_from_the_next_epoch() -> None:
    settings = Settings(batch_size=8)
    assert list(EpochBatches(32, settings, 3, 2)) == list(EpochBatches(32, settings, 3, 0))[2:]
    first, second = (
        [index for batch in EpochBatches(32, settings, epoch, 0) for *_, index in batch] for epoch in (0, 1)
    )
    assert first != second


def test_repeated_augmentation_repeats_images_without_lengthening_the_epoch() -> None:
    settings = Settings(batch_size=10, repeated_augmentation=3)
    indices = [index for batch in EpochBatches(30, settings, 0, 0) for *_, index in batch]
    assert len(indices) == 30
    assert len(set(indices)) == 10


CLASSES = [0] * 40 + [2] * 15 + [3] * 5  # no image has class 1


def drawn(settings: Settings, epoch: int = 0, first_step: int = 0, rank: int = 0, world_size: int = 1) -> Any:
    """Return the indices of each batch."""
    batches = EpochBatches(len(CLASSES), settings, epoch, first_step, rank, world_size, CLASSES)
    return [[index for _, _, index in batch] for batch in batches]


@pytest.mark.parametrize("repetitions", [1, 3])
def test_the_balanced_sampler_draws_each_class_equally_often(repetitions: int) -> None:
    settings = Settings(batch_size=10, sampler="balanced", repeated_augmentation=repetitions)
    epochs = [Counter(index for batch in drawn(settings, epoch) for index in batch) for epoch in range(60)]
    assert all(epoch.total() == 60 for epoch in epochs)
    classes = Counter(CLASSES[index] for epoch in epochs for index in epoch.elements())
    assert set(classes) == {0, 2, 3}
    assert all(count == pytest.approx(60 * 60 / 3, rel=0 if repetitions == 1 else 0.1) for count in classes.values())
    if repetitions == 1:
        rare = [epoch[index] for epoch in epochs for index in range(55, 60)]
        assert set(rare) == {4}  # 20 draws of 5 images
        assert {index for epoch in epochs for index in epoch} == set(range(60))


def test_the_balanced_sampler_can_start_at_any_step_and_is_shared_by_the_processes() -> None:
    settings = Settings(batch_size=10, sampler="balanced")
    whole = drawn(settings, 3)
    assert drawn(settings, 3, 4) == whole[4:]
    assert drawn(settings, 4) != whole
    halves = zip(drawn(settings, 3, 0, 0, 2), drawn(settings, 3, 0, 1, 2), strict=True)
    assert [sorted(first + second) for first, second in halves] == [sorted(batch) for batch in whole]


def test_augmentation_depends_only_on_seed_epoch_and_position(dataset: Path) -> None:
    split = find_images(dataset, 0.1, 0)
    settings = Settings(batch_size=6, rand_augment=9, erasing=0.5)
    images = TrainingImages(split.train, settings, (32, 48))
    batches = EpochBatches(len(split.train), settings, 0, 0)
    torch.manual_seed(1)
    without_workers = [pixels for pixels, _ in training_loader(images, batches, 0)]
    torch.manual_seed(2)
    with_workers = [pixels for pixels, _ in training_loader(images, batches, 2)]
    assert without_workers[0].shape == (6, 3, 32, 48)
    assert without_workers[0].dtype == torch.uint8
    assert all(torch.equal(one, other) for one, other in zip(without_workers, with_workers, strict=True))
    assert not torch.equal(images[(0, 0, 0)][0], images[(1, 0, 0)][0])


def test_validation_loads_each_image_once_with_the_pixels_of_predict(dataset: Path) -> None:
    split, transform = find_images(dataset, 0.1, 0), transform_for("hf", (48, 48))
    images = ValidationImages(split.val, transform)
    item, target = split.val[4]
    pixels, loaded_target = images[4]
    assert loaded_target == target == list(COLORS).index(Path(item.path).parent.name)
    assert (pixels.permute(1, 2, 0).numpy() == Reader(transform)(item)).all()
    parts = [
        [t for _, targets in validation_loader(images, 2, 0, rank, 2) for t in targets.tolist()] for rank in (0, 1)
    ]
    assert all(len(part) == len(split.val) / 2 for part in parts)
    assert sorted(parts[0] + parts[1]) == sorted(target for _, target in split.val) == [0, 0, 1, 1, 2, 2]


@pytest.mark.guarantee("training-unreadable-images")
def test_an_image_that_disappears_is_an_error(dataset: Path) -> None:
    split = find_images(dataset, 0.1, 0)
    images = TrainingImages(split.train, Settings(), (32, 32))
    Path(split.train[0][0].path).unlink()
    with pytest.raises(LostImageError, match="no such file"):
        images[(0, 0, 0)]


@pytest.mark.guarantee("formats")
def test_workers_of_the_data_loader_read_all_formats_as_predict_does(tmp_path: Path) -> None:
    transform = transform_for("hf", (32, 32))
    names = sorted(files_of(sample_image(96, 80)))
    for name in names:
        (tmp_path / name).write_bytes(files_of(sample_image(96, 80))[name])
    images = ValidationImages([(Input(str(tmp_path / name)), 0) for name in names], transform)
    found = torch.cat([pixels for pixels, _ in validation_loader(images, 4, 2)])
    expected = [torch.tensor(Reader(transform)(Input(str(tmp_path / name)))) for name in names]
    assert torch.equal(found, torch.stack(expected).permute(0, 3, 1, 2))
