"""Modules import from their own layer or below, and each heavy library is used in a few modules only.

The imports are read from the source files, so that imports inside functions count too.
"""

import ast
from pathlib import Path

import pytest

import levit_cli

PACKAGE = Path(levit_cli.__file__).parent
# The folders and top-level modules of the package, from the lowest layer up.
LAYERS = (
    {"errors", "choices", "system"},
    {"model", "images"},
    {"checkpoints", "data"},
    {"engines"},
    {
        *("predict", "eval", "finetune", "bench", "convert", "info", "export", "quantize"),
        *("embed", "sort", "gallery", "probe", "serve", "distributed"),
    },
    {"api"},
    {"cli", "__main__", "__init__"},
)
TORCH_ALLOWED = {
    *("model.levit", "images.resize_torch", "checkpoints.torch_files", "finetune"),
    *("bench.baselines", "bench.jit"),
    *("engines.torch", "engines.torch_compile", "engines.cuda_graphs"),
    "engines.openvino_converter",
}
MODULES_OF_LIBRARY: dict[str, set[str]] = {
    "openvino": {"engines.openvino", "engines.openvino_converter", "export.openvino_ir"},
    "onnx": {"export.onnx_graph"},
    "onnxruntime": {"export.onnx_graph"},
    "huggingface_hub": {"checkpoints.hub", "checkpoints.model_card", "data.remote.stores"},
    "pyarrow": {
        *("data.parquet.columns", "data.parquet.reading", "predict.parquet_output", "embed.parquet"),
        "distributed.pipeline",
    },
    "fsspec": {"data.remote.stores"},
    "s3fs": {"data.remote.stores"},
    "platformdirs": {"system.cache"},
    "safetensors": {"checkpoints.weights"},
    "rich": {"predict.table", "eval.table", "system.progress", "bench.table"},
    "typer": {"cli"},
    "nncf": {"quantize.nncf_graph"},
    "torchmetrics": set(),  # the tests compare the metrics with it
    "matplotlib": {"system.plotting"},
    "jinja2": {"eval.report", "embed", "gallery"},
    "sklearn": {"probe"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "ray": {"distributed"},
    "pandas": {"distributed"},
    "cykooz_resizer": {"images.resize_simd"},
    "pi_heif": {"images.heif"},
    "pillow_jxl": set(),  # images.jxl loads its compiled module alone
    "PIL": {"api", "images", "predict.reader", "finetune.split", "bench.end_to_end", "embed.duplicates"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Return the dotted names of all imports in a file, also of those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def our_imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports."""
    dotted = {name.removeprefix("levit_cli.") for name in imports(path) if name.startswith("levit_cli.")}
    return {module for name in dotted for module in [_longest_module(name)] if module}


def _longest_module(dotted: str) -> str | None:
    parts = dotted.split(".")
    return next((".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in MODULES), None)


def layer_of(module: str) -> int:
    folder = module.partition(".")[0]
    return next(number for number, folders in enumerate(LAYERS) if folder in folders)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_layer_or_below(module: str) -> None:
    for imported in our_imports(MODULES[module]):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported} from a higher layer"


def test_imports_have_no_cycle() -> None:
    graph = {module: our_imports(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_in_the_allowed_modules_only(module: str) -> None:
    uses_torch = any(name.partition(".")[0] in ("torch", "torchvision") for name in imports(MODULES[module]))
    assert not uses_torch or {module, module.partition(".")[0]} & TORCH_ALLOWED


@pytest.mark.parametrize("library", MODULES_OF_LIBRARY)
def test_a_library_is_imported_in_the_allowed_modules_only(library: str) -> None:
    users = {
        module for module, path in MODULES.items() if any(name.partition(".")[0] == library for name in imports(path))
    }
    allowed = MODULES_OF_LIBRARY[library]
    assert all(user in allowed or user.partition(".")[0] in allowed for user in users), users
