"""Each guarantee in docs/guarantees.md has a test, and each ``guarantee`` mark names a documented guarantee."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"


def documented() -> list[str]:
    return re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def marks_in(path: Path) -> set[str]:
    """Return the names of the guarantees that the tests of a file are marked with."""
    return {
        str(argument.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.guarantee"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    }


TESTED = {name for path in TESTS.rglob("test_*.py") for name in marks_in(path)}


def test_each_guarantee_has_a_unique_name() -> None:
    assert len(documented()) > 60
    assert len(documented()) == len(set(documented()))


@pytest.mark.parametrize("name", documented())
def test_each_documented_guarantee_has_a_test(name: str) -> None:
    assert name in TESTED


def test_each_marked_guarantee_is_documented() -> None:
    assert set(documented()) >= TESTED
