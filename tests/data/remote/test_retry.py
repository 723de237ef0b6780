"""Requests are repeated with back-off, within a total time. The clock is simulated."""

from collections.abc import Callable

import pytest

from levit_cli.data.remote.retry import ATTEMPTS, ATTEMPTS_IF_REFUSED, ChangedError, RemoteError, Retry, failure_of


class Clock:
    """A clock that only moves by sleeping."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


class AnswerError(Exception):
    """An error with an HTTP answer, as botocore raises it."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
        self.response = {"ResponseMetadata": metadata, "Error": {"Code": "SlowDown"}}


def failing(error: Exception, times: int) -> Callable[[float], str]:
    """Return an attempt that fails some times, then succeeds."""
    left = [times]

    def attempt(_: float) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "content"

    return attempt


def retry(clock: Clock, total_s: float = 60.0, jitter: float = 0.0) -> Retry:
    return Retry(total_s, 0.25, lambda: clock.now, clock.sleep, lambda: jitter)


def test_pauses_double_and_the_result_is_returned() -> None:
    clock = Clock()
    assert retry(clock)(failing(AnswerError(503), ATTEMPTS - 1)) == "content"
    assert clock.pauses == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_jitter_shortens_pauses_by_up_to_a_half() -> None:
    clock = Clock()
    retry(clock, jitter=1.0)(failing(ConnectionResetError(), 3))
    assert clock.pauses == [0.125, 0.25, 0.5]


def test_attempts_are_limited() -> None:
    clock = Clock()
    with pytest.raises(RemoteError, match=r"503 Service Unavailable \(SlowDown\)"):
        retry(clock)(failing(AnswerError(503), ATTEMPTS))


def test_the_store_may_ask_for_a_longer_pause() -> None:
    clock = Clock()
    assert retry(clock)(failing(AnswerError(429, {"retry-after": "20"}), 1)) == "content"
    assert clock.pauses == [20.0]


def test_the_total_time_is_limited_and_handed_to_attempts() -> None:
    clock, given = Clock(), list[float]()

    def attempt(seconds: float) -> None:
        given.append(seconds)
        clock.now += 4.0
        raise TimeoutError

    with pytest.raises(RemoteError, match="did not answer in time"):
        retry(clock, total_s=10.0)(attempt)
    assert given[0] == 10.0
    assert clock.now <= 10.0 + 4.0


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), AnswerError(403), AnswerError(404)])
def test_a_refusal_is_checked_once_more(error: Exception) -> None:
    clock = Clock()
    assert retry(clock)(failing(error, ATTEMPTS_IF_REFUSED - 1)) == "content"
    with pytest.raises(RemoteError):
        retry(clock)(failing(error, ATTEMPTS_IF_REFUSED))


@pytest.mark.parametrize("error", [ConnectionError("x"), ChangedError(), AnswerError(500), AnswerError(429)])
def test_other_errors_may_pass(error: Exception) -> None:
    assert not failure_of(error).is_refusal


@pytest.mark.guarantee("remote-secrets")
def test_messages_and_causes_hold_no_secret() -> None:
    with pytest.raises(RemoteError) as caught:
        retry(Clock())(failing(ValueError("cannot log in to ftp://me:secret@host"), 9))
    assert str(caught.value) == "cannot log in to ftp://me:***@host"
    assert caught.value.__suppress_context__
