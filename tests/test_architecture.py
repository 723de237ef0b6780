"""Imports go down through the layers, and each heavy library has its home. Read from the sources, not from a run."""

import ast
from pathlib import Path

import pytest

import levit_cli

PACKAGE = Path(levit_cli.__file__).parent
# The folders and single modules of the package. A module imports from its own layer, without circles, and from below.
LAYERS = (
    {"__init__", "errors", "choices", "system"},
    {"model", "images"},
    {"checkpoints", "data"},
    {"engines"},
    {"predict", "eval", "finetune", "bench", "convert", "info"},
    {"cli", "__main__"},
)
TORCH_ALLOWED = {
    *("model.levit", "images.resize_torch", "checkpoints.weights", "eval.metrics", "finetune"),
    *("bench.baselines", "bench.jit"),
    *("engines.torch", "engines.torch_compile", "engines.cuda_graphs", "engines.tracing"),
    "engines.openvino_converter",
}
HOMES = {
    "openvino": {"engines.openvino", "engines.openvino_converter"},
    "huggingface_hub": {"checkpoints.hub"},
    "safetensors": {"checkpoints.weights"},
    "rich": {"predict.table", "eval.table", "system.progress", "finetune.display", "bench.table", "bench.progress"},
    "typer": {"cli"},
    "torchmetrics": {"eval.metrics"},
    "PIL": {"images", "predict.reader", "finetune.split", "bench.end_to_end"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def our_imports(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    dotted = {name.removeprefix("levit_cli.") for name in imports(path) if name.startswith("levit_cli.")}
    return {module for name in dotted for module in [_longest_module(name)] if module}


def _longest_module(dotted: str) -> str | None:
    parts = dotted.split(".")
    return next((".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in MODULES), None)


def layer_of(module: str) -> int:
    folder = module.partition(".")[0]
    return next(number for number, folders in enumerate(LAYERS) if folder in folders)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_through_the_layers(module: str) -> None:
    for imported in our_imports(MODULES[module]):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}, which lies above it"


def test_imports_have_no_circle() -> None:
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
def test_torch_is_imported_where_the_layout_allows_it(module: str) -> None:
    uses_torch = any(name.partition(".")[0] in ("torch", "torchvision") for name in imports(MODULES[module]))
    assert not uses_torch or {module, module.partition(".")[0]} & TORCH_ALLOWED


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_used_in_its_own_modules_only(library: str) -> None:
    users = {
        module for module, path in MODULES.items() if any(name.partition(".")[0] == library for name in imports(path))
    }
    homes = HOMES[library]
    assert all(user in homes or user.partition(".")[0] in homes for user in users), users
