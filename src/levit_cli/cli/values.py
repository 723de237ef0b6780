"""Convert the values of options without pydantic, which Typer imports for it and which takes 0.1 s of CPU time.

Only values that are certainly valid are converted here. Typer converts the others, and reports those that are invalid.
"""

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

INTEGER, NUMBER = re.compile(r"-?[0-9]{1,15}"), re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


class NotConvertedError(ValueError):
    """The value is left to Typer."""


def quick_value(value: Any, annotation: Any, minimum: float | None, maximum: float | None) -> Any:
    """Return a value from the command line, the environment or a default, as the type of its parameter.

    Args:
        annotation: the type of the parameter; ``T | None`` admits None.
        minimum: the smallest valid number.
        maximum: the largest valid number.

    Raises:
        NotConvertedError: the value may be invalid, or its type is not known here.
    """
    kinds = [kind for kind in _alternatives(annotation) if kind is not NoneType]
    if value is None or len(kinds) != 1:
        raise NotConvertedError
    kind = kinds[0]
    if get_origin(kind) is Literal:
        return _checked(value, value in get_args(kind))
    if kind in (int, float):
        return _number(value, kind, minimum, maximum)
    if kind == list[str]:
        return [_checked(item, isinstance(item, str)) for item in value]
    return kind(_checked(value, isinstance(value, (str, Path)) and kind in (str, Path)))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _checked(value: Any, is_valid: bool) -> Any:
    if not is_valid:
        raise NotConvertedError
    return value


def _number(value: Any, kind: type, minimum: float | None, maximum: float | None) -> Any:
    if isinstance(value, str):
        value = kind(_checked(value, (INTEGER if kind is int else NUMBER).fullmatch(value) is not None))
    number = _checked(value, type(value) in (int, float) and (kind is float or type(value) is int))
    return _checked(kind(number), (minimum is None or number >= minimum) and (maximum is None or number <= maximum))


class _QuickParam:
    """The part of Typer's ``RuntimeParam`` that converts, with the original as the second choice."""

    def __init__(self, parameter: Any) -> None:
        self._annotation, info = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
        self._limits = (info.min, info.max)
        self._original = parameter.get_runtime_param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None and param.nargs == 1:
            return () if param.multiple else None  # as Typer
        try:
            return quick_value(value, self._annotation, *self._limits)
        except NotConvertedError:
            return self._original().coerce(value, param=param, ctx=ctx)


def convert_quickly(parameter: Any) -> None:
    """Let a parameter of Typer's convert valid values with ``quick_value``."""
    if hasattr(parameter, "type_descriptor"):  # versions of Typer without it do not use pydantic
        quick = _QuickParam(parameter)
        parameter.get_runtime_param = lambda: quick
