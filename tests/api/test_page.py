"""The examples of docs/python.md run and print what the page shows."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import levit_cli
from levit_cli import api

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"(<!-- needs: (\w+) -->\n)?```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def test_every_python_block_is_an_example_with_its_output() -> None:
    assert PAGE.count("```python\n") == len(EXAMPLE.findall(PAGE)) >= 5


def test_the_examples_print_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for _, needs, code, expected in EXAMPLE.findall(PAGE):
        if needs:
            pytest.importorskip(needs)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python.md", "exec"), names)
        assert printed.getvalue() == expected, code


def test_the_page_names_the_whole_api() -> None:
    methods = [name for name in vars(levit_cli.Classifier) if not name.startswith("_")]
    options = [name for name in levit_cli.load.__annotations__ if name not in ("model", "return")]
    errors = [name for name in levit_cli.__all__ if name.endswith("Error")]
    fields = [name for kind in (api.Ranked, api.Prediction) for name in kind.__annotations__]
    for name in (*methods, *options, *errors, *fields):
        assert re.search(rf"\b{name}\b", PAGE), name
