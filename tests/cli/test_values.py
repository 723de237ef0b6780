"""Values are converted as Typer converts them, without pydantic."""

from typing import Any

import pytest
import typer.main

from levit_cli.cli import app
from levit_cli.cli.values import NotConvertedError, convert_quickly, quick_value

VALUES = (
    *("1", "0", "-1", "007", "65536", "1.5", "0.1", "1e3", "nan", "inf", " 1 ", "1_0", "+3", "٣"),
    *("", "x", "jsonl", "JSONL", "auto", "none", "true", "/a/b", "~/x", "a\udcff", "-"),
)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PARAMETERS = {
    f"{name} {parameter.name}": parameter
    for name, command in COMMANDS.items()
    for parameter in command.params
    if hasattr(parameter, "type_descriptor")
}


def by_typer(parameter: Any, value: Any, context: Any) -> Any:
    return parameter.get_runtime_param().coerce(value, param=parameter, ctx=context)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_value_that_is_converted_quickly_is_what_typer_makes_of_it(name: str) -> None:
    parameter = PARAMETERS[name]
    descriptor = parameter.type_descriptor
    context = typer.Context(COMMANDS[name.split()[0]])
    for text in VALUES:
        value = (text, "two") if parameter.nargs == -1 or parameter.multiple else text
        try:
            info = descriptor.parameter_info
            converted = quick_value(value, descriptor.annotation, info.min, info.max)
        except NotConvertedError:
            continue
        expected = by_typer(parameter, value, context)
        assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "annotation", "limits", "expected"),
    [
        ("5", int, (1, None), 5),
        ("0.5", float | None, (None, None), 0.5),
        (3, int, (None, 3), 3),
        (("a", "b"), list[str] | None, (None, None), ["a", "b"]),
    ],
)
def test_valid_values_are_converted(value: Any, annotation: Any, limits: Any, expected: Any) -> None:
    assert quick_value(value, annotation, *limits) == expected


@pytest.mark.parametrize(
    ("value", "annotation", "limits"), [("0", int, (1, None)), ("9", int, (None, 8)), ("x", bool, (None, None))]
)
def test_values_that_may_be_invalid_are_left_to_typer(value: str, annotation: Any, limits: Any) -> None:
    with pytest.raises(NotConvertedError):
        quick_value(value, annotation, *limits)


def test_parameters_of_other_versions_of_typer_are_left_alone() -> None:
    parameter = object()
    convert_quickly(parameter)
    assert not hasattr(parameter, "get_runtime_param")
