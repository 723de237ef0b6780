"""Teachers of each kind are shown what they expect, and answer in the student's order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.finetune.onnx_teacher import NetworkFile
from levit_cli.finetune.step import normalised
from levit_cli.finetune.teachers import Teacher, make_teacher
from levit_cli.images.transforms import transform_for
from tests.support.random_weights import random_pixels

CPU = torch.device("cpu")
STUDENT = transform_for("hf", (48, 48))
CLASSES = tuple(f"c{number}" for number in range(7))


def renamed(folder: Path, out: Path, names: tuple[str, ...]) -> Checkpoint:
    checkpoint = replace(load(folder), labels=Labels(names))
    save(checkpoint, out, "hf")
    return checkpoint


def teach(name: str | Path, classes: tuple[str, ...] = CLASSES, weights: str | Path = "") -> Teacher:
    return make_teacher(str(name), str(weights), classes, STUDENT, image_size=0, device=CPU)


def test_a_model_answers_in_the_students_order(tiny_folder: Path, tmp_path: Path) -> None:
    backwards = CLASSES[::-1]
    checkpoint = renamed(tiny_folder, tmp_path / "teacher", backwards)
    pixels = random_pixels(checkpoint.config, 3)
    x = normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2), transform_for("hf", (64, 64)))
    from levit_cli.engines import EngineSpec, make_engine

    expected = make_engine(checkpoint, EngineSpec(engine="openvino", precision="fp32"))(pixels)
    np.testing.assert_allclose(teach(tmp_path / "teacher")(x).numpy(), expected[:, ::-1], atol=1e-4)


def test_another_size_is_resized(tiny_folder: Path, tmp_path: Path) -> None:
    renamed(tiny_folder, tmp_path / "teacher", CLASSES)
    assert teach(tmp_path / "teacher")(torch.randn(2, 3, 48, 48)).shape == (2, 7)


@pytest.mark.guarantee("training-classes")
def test_other_classes_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    renamed(tiny_folder, tmp_path / "teacher", CLASSES)
    with pytest.raises(RefusedError, match=r"other classes .* 7 against 7 .* c6, d6"):
        teach(tmp_path / "teacher", (*CLASSES[:6], "d6"))


def test_another_normalisation_is_undone() -> None:
    seen: list[torch.Tensor] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    Teacher(look, STUDENT, (48, 48), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(normalised(pixels, STUDENT))
    torch.testing.assert_close(seen[0], (pixels / 255 - 0.5) / 0.5)


def test_a_torchvision_network_with_weights_of_ones_own(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    network = mobilenet_v3_small(weights=None, num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(teach("mobilenet_v3_small", weights=tmp_path / "weights.safetensors")(x), expected)
    with pytest.raises(RefusedError, match="7 classes apart, the data has 3"):
        teach("mobilenet_v3_small", ("a", "b", "c"), tmp_path / "weights.safetensors")
    with pytest.raises(RefusedError, match="does not fit torchvision's resnet18"):
        teach("resnet18", weights=tmp_path / "weights.safetensors")


def test_imagenets_own_weights_are_for_its_classes() -> None:
    with pytest.raises(RefusedError, match=r"1000 classes, the data has 7 .* --teacher-weights"):
        teach("regnet_y_16gf")


class Small(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(7))
        self.body(torch.zeros(1, 3, side, side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def exported(path: Path, network: nn.Module, side: int) -> Path:
    """The network as ONNX; skips where onnx is not installed."""
    pytest.importorskip("onnx")
    axes = {"x": {0: "batch"}}
    torch.onnx.export(
        network, (torch.zeros(1, 3, side, side),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_file_of_any_make(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small(48).eval()
    teacher = teach(exported(tmp_path / "teacher.onnx", network, 48))
    x = torch.randn(5, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(teacher(x), network(x), atol=0.05, rtol=0)  # in bf16 where that is native
    with pytest.raises(RefusedError, match="7 classes apart, the data has 2"):
        teach(tmp_path / "teacher.onnx", ("a", "b"))


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"<html>"])
def test_what_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="is no network"):
        NetworkFile(path, 1)
    with pytest.raises(RefusedError, match="no such file"):
        NetworkFile(tmp_path / "none.onnx", 1)
