"""Retry requests to a store, with back-off and jitter, until they succeed or the time is over.

An answer such as "access denied" or "no such object" will hardly change. It is checked once more, because stores list
new objects before they can be read, and because access is granted with a delay.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from levit_cli.data.remote.names import one_line

T = TypeVar("T")

TOTAL_S = 60.0  # for all attempts of one request or object
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
ATTEMPTS = 6
ATTEMPTS_IF_REFUSED = 2
RETRYABLE_STATUS = (408, 425, 429)  # of the statuses below 500
REFUSALS = (
    FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError, TypeError, LookupError,
    NotImplementedError, ImportError, AttributeError,
)  # fmt: skip
# Classes of botocore and huggingface_hub, by name, because they are imported only if they are used.
CONNECTION_ERRORS = ("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError")
CUT_OFF = ("ClientPayloadError", "IncompleteReadError", "ResponseStreamingError", "ConnectionResetError")
LIBRARY_ERRORS = ("BotoCoreError", "OfflineModeIsEnabled", "HFValidationError")


CHANGED = "it changed while it was read"


class RemoteError(Exception):
    """A request to a store failed for good. The message is one line without secrets.

    Args:
        status: the HTTP status of the answer, if there is one; 404 also if a store without HTTP has no such file.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ChangedError(Exception):
    """The object differs from the one that was listed, or from the one that the last attempt read."""


@dataclass(frozen=True)
class Failure:
    """Why one attempt failed.

    Args:
        is_refusal: whether the same request will hardly succeed later.
        retry_after_s: the pause that the store asks for, if it does.
    """

    message: str
    is_refusal: bool
    status: int | None = None
    retry_after_s: float | None = None


def failure_of(error: BaseException) -> Failure:
    """Return why an attempt failed, for errors of any library."""
    chain = [*_chain(error)]
    status = next((found for link in chain if (found := _status(link)) is not None), None)
    if status is not None:
        is_refusal = status < 500 and status not in RETRYABLE_STATUS
        after = next((pause for link in chain if (pause := _retry_after_s(link)) is not None), None)
        return Failure(_answer(status, chain), is_refusal, status, after)
    if any(isinstance(link, TimeoutError) or type(link).__name__.endswith("TimeoutError") for link in chain):
        return Failure("the store did not answer in time", is_refusal=False)
    names = _class_names(error)
    is_refusal = isinstance(error, REFUSALS) or (
        not names.isdisjoint(LIBRARY_ERRORS) and names.isdisjoint(CONNECTION_ERRORS)
    )
    missing = 404 if isinstance(error, FileNotFoundError) else None
    return Failure(_text(error), is_refusal, missing)


def _class_names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an exception of botocore, huggingface_hub, aiohttp, gcsfs or azure; None if none."""
    if "HttpProcessingError" in _class_names(error):  # of aiohttp: the answer is broken; its code is not the server's
        return None
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) and 400 <= found < 600 else None


def _retry_after_s(error: BaseException) -> float | None:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    else:
        headers = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    try:
        return max(0.0, float(headers.get("retry-after") or headers.get("Retry-After")))
    except (AttributeError, TypeError, ValueError):  # none, or a date
        return None


def _answer(status: int, chain: list[BaseException]) -> str:
    if status == HTTPStatus.PRECONDITION_FAILED:  # we ask for a part of the version that was listed
        return CHANGED
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    codes = (getattr(link, "response", None) for link in chain)
    code = next((code.get("Error", {}).get("Code", "") for code in codes if isinstance(code, dict)), "")
    detail = f" ({code})" if code and str(code) != str(status) else ""
    return one_line(f"the store returned {status} {phrase}{detail}")


def _text(error: BaseException) -> str:
    if isinstance(error, ChangedError):
        return CHANGED
    if isinstance(error, FileNotFoundError):
        return "the store has no such object"
    if not _class_names(error).isdisjoint(CUT_OFF):
        return "the store closed the connection too early"
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


@dataclass(frozen=True)
class Retry:
    """Repeats an attempt until it succeeds.

    Args:
        total_s: time for all attempts; each one gets the time that is left.
        clock: returns seconds.
        sleep: waits.
        uniform: returns a random number from 0 to 1.
    """

    total_s: float = TOTAL_S
    first_pause_s: float = FIRST_PAUSE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    uniform: Callable[[], float] = random.random

    def __call__(self, attempt: Callable[[float], T]) -> T:
        """Return the result of ``attempt``, which gets the seconds that are left.

        Raises:
            RemoteError: all attempts failed.
        """
        deadline = self.clock() + self.total_s
        number = 0
        while True:
            number += 1
            try:
                return attempt(max(deadline - self.clock(), 0.01))
            except RemoteError:
                raise
            except Exception as error:
                failure = failure_of(error)
                pause_s = self._pause_s(number, failure)
                limit = ATTEMPTS_IF_REFUSED if failure.is_refusal else ATTEMPTS
                if number >= limit or self.clock() + pause_s >= deadline:
                    raise RemoteError(failure.message, failure.status) from None  # its chain may hold secrets
            self.sleep(pause_s)

    def _pause_s(self, number: int, failure: Failure) -> float:
        """Return the pause after an attempt: it doubles each time, minus a random part of up to a half."""
        pause_s: float = min(LONGEST_PAUSE_S, self.first_pause_s * 2 ** (number - 1)) * (1 - self.uniform() / 2)
        return max(pause_s, failure.retry_after_s or 0.0)
