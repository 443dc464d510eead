"""How long a request for a file is made again."""

import pytest

from steps.tracking import artifacts
from steps.tracking.artifacts import SECONDS_OF_ERRORS, SECONDS_OF_SILENCE, _Patience

REFUSES = "Max retries exceeded (Caused by ResponseError('too many 500 error responses'))"
GATEWAY = "Max retries exceeded (Caused by ResponseError('too many 503 error responses'))"
BREAKS = "Max retries exceeded (Caused by ProtocolError('Connection aborted.', RemoteDisconnected"
AWAY = "Max retries exceeded (Caused by NewConnectionError: Connection refused"


@pytest.mark.parametrize(
    ("failures", "left"),
    [
        # Each with the second in which it was met, from the beginning on.
        ([(0, REFUSES)], SECONDS_OF_ERRORS),
        ([(0, REFUSES), (9, BREAKS)], SECONDS_OF_ERRORS - 9),
        ([(0, AWAY), (20, REFUSES), (25, REFUSES)], SECONDS_OF_ERRORS - 5),
        ([(0, BREAKS), (30, BREAKS)], SECONDS_OF_SILENCE - 30),
        ([(0, REFUSES), (5, AWAY), (6, BREAKS)], SECONDS_OF_SILENCE - 6),
        ([(0, REFUSES), (5, GATEWAY)], SECONDS_OF_SILENCE - 5),
        ([(0, "403 Client Error: FORBIDDEN")], 0),
    ],
)
def test_an_answer_of_the_server_counts_and_a_broken_connection_follows_either(
    failures: list[tuple[float, str]], left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: now[0])
    patience = _Patience()
    for second, text in failures:
        now[0] = 100.0 + second
        found = patience.left_after(OSError(text))
    assert found == left
    assert SECONDS_OF_ERRORS <= 30 <= SECONDS_OF_SILENCE
