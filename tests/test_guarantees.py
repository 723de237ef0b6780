"""Every guarantee in docs/guarantees.md has a test, and every test's marker names a guarantee."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
GUARANTEES = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def markers_in(path: Path) -> set[str]:
    """The guarantees that the tests of a file are marked with."""
    return {
        str(argument.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.guarantee"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    }


MARKERS = {name for path in TESTS.rglob("test_*.py") for name in markers_in(path)}


def test_names_of_guarantees_are_unique() -> None:
    assert len(GUARANTEES) > 60
    assert len(GUARANTEES) == len(set(GUARANTEES))


@pytest.mark.parametrize("name", GUARANTEES)
def test_guarantee_has_a_test(name: str) -> None:
    assert name in MARKERS


def test_markers_name_existing_guarantees() -> None:
    assert set(GUARANTEES) >= MARKERS
