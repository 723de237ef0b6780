"""Collect the errors of several checks, so that one message names all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from levit_cli.errors import LevitError, UsageError


class Faults:
    """The errors of the checks so far. ``refuse`` raises them together."""

    def __init__(self) -> None:
        self.errors: list[LevitError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an error that the block raises instead of raising it now."""
        try:
            yield
        except LevitError as error:
            self.errors.append(error)

    def add(self, error: LevitError) -> None:
        self.errors.append(error)

    def refuse(self) -> None:
        """Raise the errors, if there are any: one as it is, several as a ``UsageError`` or the first one's class.

        Raises:
            LevitError: a check failed.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            is_usage = any(isinstance(error, UsageError) for error in self.errors)
            kind = UsageError if is_usage else type(self.errors[0])
            raise kind(f"{len(self.errors)} problems", why="; ".join(map(str, self.errors)))
