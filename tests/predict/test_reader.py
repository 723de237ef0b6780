import os
import socket
from pathlib import Path

import numpy as np
import pytest

from levit_cli.choices import Decoding
from levit_cli.data.inputs import Input
from levit_cli.errors import InputError
from levit_cli.images.transforms import transform_for
from levit_cli.predict.reader import Reader
from levit_cli.system.files import open_regular
from tests.support.foreign_systems import IS_ROOT, linux_only, posix_only
from tests.support.sample_images import sample_image

TRANSFORM = transform_for("fb", (32, 48))


def kind_of(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        Reader(TRANSFORM)(Input(str(path)))
    return caught.value.kind


def test_pixels_have_the_size_of_the_transform(tmp_path: Path) -> None:
    sample_image().save(tmp_path / "a.png")
    pixels = Reader(TRANSFORM)(Input(str(tmp_path / "a.png")))
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8


@posix_only
@pytest.mark.guarantee("not-regular-file")
def test_pipes_devices_folders_and_sockets_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert kind_of(tmp_path / "pipe.jpg") == "not_regular"
    assert kind_of("/dev/null") == "not_regular"
    assert kind_of(tmp_path) == "not_regular"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jpg"))
        assert kind_of(tmp_path / "s.jpg") == "not_regular"


def test_missing_files_dangling_links_and_invalid_names_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    for path in (tmp_path / "gone.jpg", tmp_path / "dangling.jpg", tmp_path / ("x" * 300), "nul\0inside"):
        assert kind_of(path) == "not_found"


@pytest.mark.skipif(IS_ROOT, reason="root can read every file")
def test_file_without_read_permission_is_an_error(tmp_path: Path) -> None:
    sample_image().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert kind_of(tmp_path / "a.png") == "permission"


@linux_only
def test_refused_files_leave_no_open_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(InputError):
            open_regular(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_fast_decoding_lets_the_jpeg_decoder_scale_down(tmp_path: Path) -> None:
    sample_image(1600, 1200).save(tmp_path / "large.jpg", quality=95)
    item = Input(str(tmp_path / "large.jpg"))
    exact, fast = (Reader(TRANSFORM, decoding)(item).astype(int) for decoding in ("exact", "fast"))
    assert (exact != fast).any(), "the decoder did not scale"
    assert np.abs(exact - fast).mean() < 3


@pytest.mark.parametrize(("size", "scales"), [((4 * 54, 4 * 36 - 1), False), ((4 * 54, 4 * 36), True)])
def test_fast_decoding_leaves_photos_that_are_less_than_4_times_too_large(
    size: tuple[int, int], scales: bool, tmp_path: Path
) -> None:
    assert TRANSFORM.resize_to == (36, 54)
    sample_image(*size).save(tmp_path / "a.jpg", quality=95)
    exact, fast = (Reader(TRANSFORM, decoding)(Input(str(tmp_path / "a.jpg"))) for decoding in ("exact", "fast"))
    assert (exact != fast).any() == scales


@pytest.mark.parametrize(
    ("name", "size", "decoding", "counts"),
    [
        ("a.jpg", (800, 600), "exact", True),
        ("a.png", (800, 600), "exact", False),
        ("a.jpg", (200, 140), "exact", False),
        ("a.jpg", (800, 600), "fast", False),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_time_that_fast_decoding_would_save_is_counted(
    name: str, size: tuple[int, int], decoding: Decoding, counts: bool, in_memory: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    sample_image(*size).save(path)
    reader = Reader(TRANSFORM, decoding)
    reader(Input("-", content=path.read_bytes()) if in_memory else Input(str(path)))
    assert (reader.large_jpeg_s > 0) == counts


def test_urls_are_not_downloaded_offline() -> None:
    with pytest.raises(InputError) as caught:
        Reader(TRANSFORM, offline=True)(Input("http://127.0.0.1:9/a.jpg"))
    assert caught.value.kind == "download"
