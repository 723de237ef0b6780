"""Every promise of the documents has a test, and every test that shows one shows one that was given."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"


def promised() -> list[str]:
    return re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def shown_in(path: Path) -> set[str]:
    """The names that tests of a file are marked with."""
    return {
        str(argument.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.guarantee"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    }


SHOWN = {name for path in TESTS.rglob("test_*.py") for name in shown_in(path)}


def test_promises_have_names_of_their_own() -> None:
    assert len(promised()) > 60
    assert len(promised()) == len(set(promised()))


@pytest.mark.parametrize("name", promised())
def test_every_promise_is_shown_by_a_test(name: str) -> None:
    assert name in SHOWN


def test_nothing_is_shown_that_was_not_promised() -> None:
    assert set(promised()) >= SHOWN
