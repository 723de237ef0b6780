"""The exported graphs compute the logits of the reference, with random weights in all layers.

``tests/parity/test_networks.py`` compares both with transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from levit_cli.choices import ExportTarget
from levit_cli.errors import RefusedError
from levit_cli.export.openvino_ir import named_graph, run_ir, write_ir
from levit_cli.export.reference import reference_logits
from levit_cli.images.transforms import transform_for
from levit_cli.model.config import VARIANTS, LevitConfig
from levit_cli.model.folded import fold
from tests.support.extras import needs_export
from tests.support.random_weights import TINY, random_pixels, random_state

Run = Callable[[Path, Sequence[NDArray[np.uint8]]], Sequence[NDArray[Any]]]
TOLERANCE = 1e-5  # relative to the largest logit
CONFIGS = {
    "tiny": TINY,
    "one head": replace(TINY, distilled=False),
    "one class": replace(TINY, num_classes=1),
    "one stage": LevitConfig((32,), (16,), (2,), (2,), num_classes=5, image_size=(48, 48)),
    "four stages": LevitConfig(
        (32, 48, 64, 80), (16,) * 4, (2, 3, 4, 5), (1, 2, 1, 1), num_classes=5, image_size=(80, 64)
    ),
    "wide image": replace(TINY, image_size=(48, 112)),
    "smallest image": replace(TINY, image_size=(16, 32)),
}
TARGETS = [pytest.param("onnx", marks=needs_export), "openvino"]


def write(folder: Path, config: LevitConfig, target: ExportTarget, state: Any = None) -> tuple[Path, Run]:
    """Write the graph of a model with random weights, and return its path and the function that runs it."""
    weights = fold(state or random_state(config), config)
    transform = transform_for("hf", config.image_size)
    if target == "openvino":
        write_ir(folder / "model.xml", named_graph(weights, config, transform, {"levit": "1"}))
        return folder / "model.xml", run_ir
    from levit_cli.export import onnx_graph

    onnx_graph.write_onnx(folder / "model.onnx", onnx_graph.build_graph(weights, config, transform, {"levit": "1"}))
    return folder / "model.onnx", onnx_graph.run_onnx


def reference(config: LevitConfig, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    return reference_logits(fold(random_state(config), config), config, transform_for("hf", config.image_size), pixels)


def relative_error(logits: NDArray[Any], expected: NDArray[Any]) -> float:
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_any_batch_equal_the_reference(tmp_path: Path, name: str, target: ExportTarget) -> None:
    config = CONFIGS[name]
    pixels = random_pixels(config, 5)
    path, run = write(tmp_path, config, target)
    expected = reference(config, pixels)
    for logits, part in zip(run(path, [pixels, pixels[:1], pixels[:2]]), (5, 1, 2), strict=True):
        assert logits.dtype == np.float32
        assert relative_error(logits, expected[:part]) < TOLERANCE


@pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.exhaustive) for name in VARIANTS])
@pytest.mark.parametrize("target", TARGETS)
def test_logits_of_the_variants_equal_the_reference(tmp_path: Path, variant: str, target: ExportTarget) -> None:
    config = VARIANTS[variant]
    pixels = random_pixels(config, 2)
    path, run = write(tmp_path, config, target)
    (logits,) = run(path, [pixels])
    assert relative_error(logits, reference(config, pixels)) < TOLERANCE


@needs_export
def test_the_onnx_file_states_its_opset_and_has_a_dynamic_batch(tmp_path: Path) -> None:
    import onnx

    path, _ = write(tmp_path, TINY, "onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert model.producer_name == "levit"
    assert {entry.key: entry.value for entry in model.metadata_props} == {"levit": "1"}
    (pixels,), (logits,) = model.graph.input, model.graph.output
    assert (pixels.name, logits.name) == ("pixels", "logits")
    shapes = [[dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim] for port in (pixels, logits)]
    assert shapes == [["batch", 64, 64, 3], ["batch", 7]]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # the weights are inside


@needs_export
def test_weights_beyond_the_limit_of_a_file_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from levit_cli.export import onnx_graph

    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
    with pytest.raises(RefusedError, match="do not fit in one ONNX file") as caught:
        write(tmp_path, TINY, "onnx")
    assert "--to openvino" in caught.value.hint
