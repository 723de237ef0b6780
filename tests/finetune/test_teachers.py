"""Each kind of teacher gets the input that it expects, and returns logits in the student's class order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from levit_cli.checkpoints import Checkpoint, load, save
from levit_cli.data.labels import Labels
from levit_cli.errors import RefusedError
from levit_cli.finetune.onnx_teacher import OnnxNetwork
from levit_cli.finetune.step import normalize
from levit_cli.finetune.teachers import Teacher, make_teacher
from levit_cli.images.transforms import transform_for
from tests.support.random_weights import random_pixels

CPU = torch.device("cpu")
STUDENT = transform_for("hf", (48, 48))
CLASSES = tuple(f"c{number}" for number in range(7))


def save_with_classes(folder: Path, out: Path, names: tuple[str, ...]) -> Checkpoint:
    checkpoint = replace(load(folder), labels=Labels(names))
    save(checkpoint, out, "hf")
    return checkpoint


def teacher_of(name: str | Path, classes: tuple[str, ...] = CLASSES, weights: str | Path = "") -> Teacher:
    return make_teacher(str(name), str(weights), classes, STUDENT, image_size=0, device=CPU)


def test_a_checkpoint_returns_logits_in_the_students_class_order(tiny_folder: Path, tmp_path: Path) -> None:
    reversed_classes = CLASSES[::-1]
    checkpoint = save_with_classes(tiny_folder, tmp_path / "teacher", reversed_classes)
    pixels = random_pixels(checkpoint.config, 3)
    x = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), transform_for("hf", (64, 64)))
    from levit_cli.engines import EngineSpec, make_engine

    expected = make_engine(checkpoint, EngineSpec(engine="openvino", precision="fp32"))(pixels)
    np.testing.assert_allclose(teacher_of(tmp_path / "teacher")(x).numpy(), expected[:, ::-1], atol=1e-4)


def test_batches_are_resized_to_the_teachers_image_size(tiny_folder: Path, tmp_path: Path) -> None:
    save_with_classes(tiny_folder, tmp_path / "teacher", CLASSES)
    assert teacher_of(tmp_path / "teacher")(torch.randn(2, 3, 48, 48)).shape == (2, 7)


@pytest.mark.guarantee("training-classes")
def test_a_teacher_with_other_classes_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    save_with_classes(tiny_folder, tmp_path / "teacher", CLASSES)
    with pytest.raises(RefusedError, match=r"other classes .* it has 7, the data has 7; not in both: c6, d6"):
        teacher_of(tmp_path / "teacher", (*CLASSES[:6], "d6"))


def test_batches_are_normalized_as_the_teacher_expects() -> None:
    seen: list[torch.Tensor] = []

    def record(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    Teacher(record, STUDENT, (48, 48), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(normalize(pixels, STUDENT))
    torch.testing.assert_close(seen[0], (pixels / 255 - 0.5) / 0.5)


def test_a_torchvision_network_with_a_weights_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    network = mobilenet_v3_small(weights=None, num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(teacher_of("mobilenet_v3_small", weights=tmp_path / "weights.safetensors")(x), expected)
    with pytest.raises(RefusedError, match="7 classes, but the data has 3"):
        teacher_of("mobilenet_v3_small", ("a", "b", "c"), tmp_path / "weights.safetensors")
    with pytest.raises(RefusedError, match="does not fit torchvision's resnet18"):
        teacher_of("resnet18", weights=tmp_path / "weights.safetensors")


def test_imagenet_weights_need_1000_classes() -> None:
    with pytest.raises(RefusedError, match=r"1000 classes, but the data has 7 .* --teacher-weights"):
        teacher_of("regnet_y_16gf")


class Small(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(7))
        self.body(torch.zeros(1, 3, side, side))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def export(path: Path, network: nn.Module, side: int) -> Path:
    """Export the network to ONNX; skip the test if onnx is not installed."""
    pytest.importorskip("onnx")
    axes = {"x": {0: "batch"}}
    torch.onnx.export(
        network, (torch.zeros(1, 3, side, side),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_as_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small(48).eval()
    teacher = teacher_of(export(tmp_path / "teacher.onnx", network, 48))
    x = torch.randn(5, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(teacher(x), network(x), atol=0.05, rtol=0)  # OpenVINO uses bf16 on some CPUs
    with pytest.raises(RefusedError, match="7 classes, but the data has 2"):
        teacher_of(tmp_path / "teacher.onnx", ("a", "b"))


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"<html>"])
def test_an_invalid_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="is not a network"):
        OnnxNetwork(path, 1)
    with pytest.raises(RefusedError, match="no such file"):
        OnnxNetwork(tmp_path / "none.onnx", 1)
