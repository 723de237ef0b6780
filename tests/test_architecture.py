"""The house holds: who may import whom, and who may import torch. Read from the sources, not from a running program."""

import ast
from pathlib import Path

import pytest

import levit_cli

PACKAGE = Path(levit_cli.__file__).parent
# A module may import those of lower floors, and those of its own floor, as long as no circle closes.
FLOORS = {
    0: {
        "__init__",
        "errors",
        "choices",
        "config",
        "pictures.recipes",
        "labels",
        "atomic",
        "graph_cache",
        "drawing",
        "web",
        "inputs",
        "interrupts",
        "class_folders",
        "attention_bias",
        "paper",
    },
    1: {"model", "fused", "pictures", "checkpoints.names"},
    2: {"checkpoints", "engines", "baselines"},
    3: {
        "preparing",
        "pipeline",
        "records",
        "resuming",
        "predicting",
        "output",
        "progress",
        "writers",
        "table",
        "classifying",
        "conversion",
        "description",
        "evaluation",
        "training",
        "benchmark",
        "speed",
    },
    4: {"cli", "__main__"},
}
TORCH_ALLOWED = {
    *("model", "checkpoints.files", "evaluation.metrics", "training", "baselines", "speed.traced"),
    *("engines.torch", "engines.torch_compile", "engines.torch_resize", "engines.cuda_graphs", "engines.tracing"),
    "engines.openvino_converter",
}
OPTIONAL_HOMES = {
    "openvino": {"engines.openvino", "engines.openvino_converter"},
    "huggingface_hub": {"checkpoints.hub"},
    "safetensors": {"checkpoints.files"},
    "rich": {"table", "evaluation.table", "progress", "training.display", "speed.table", "speed.progress"},
    "typer": {"cli"},
    "torchmetrics": {"evaluation.metrics"},
    "PIL": {
        *("pictures", "preparing.reading", "engines.torch_resize", "training.split", "speed.folder"),
    },
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


def floor_of(module: str) -> int:
    for candidate in (module, module.partition(".")[0]):
        for floor, residents in FLOORS.items():
            if candidate in residents:
                return floor
    raise AssertionError(f"{module} has no floor: say in FLOORS where it belongs")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_or_stay_on_the_floor(module: str) -> None:
    for imported in our_imports(MODULES[module]):
        assert floor_of(imported) <= floor_of(module), f"{module} imports {imported}, which lives above it"


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
def test_torch_stays_in_its_rooms(module: str) -> None:
    uses_torch = any(name.partition(".")[0] in ("torch", "torchvision") for name in imports(MODULES[module]))
    assert not uses_torch or {module, module.partition(".")[0]} & TORCH_ALLOWED


@pytest.mark.parametrize("library", OPTIONAL_HOMES)
def test_a_library_is_used_in_its_own_modules_only(library: str) -> None:
    users = {
        module for module, path in MODULES.items() if any(name.partition(".")[0] == library for name in imports(path))
    }
    homes = OPTIONAL_HOMES[library]
    assert all(user in homes or user.partition(".")[0] in homes for user in users), users
