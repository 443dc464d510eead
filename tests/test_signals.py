"""Which signals are requests, and which are echoes of one."""

import signal

import pytest

from steps.signals import StoppedAtOnce, StopSignals


@pytest.fixture(autouse=True)
def _nothing_is_handled_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_a_second_signal_ends_the_process_at_once() -> None:
    stop = StopSignals()
    with stop.deferred():
        stop.receive(signal.SIGUSR1)
        with pytest.raises(StoppedAtOnce):
            stop.receive(signal.SIGUSR1)


def test_what_a_launcher_of_ranks_repeats_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    stop = StopSignals()
    with stop.deferred():
        stop.receive(signal.SIGUSR1)
        stop.receive(signal.SIGUSR1)
        assert stop.requested == signal.SIGUSR1
        # Another one is meant.
        with pytest.raises(StoppedAtOnce):
            stop.receive(signal.SIGTERM)
