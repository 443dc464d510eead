"""Each test finds its experiment by its own store."""

import pytest


@pytest.fixture(autouse=True)
def _no_experiment_of_another_test(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # `mlflow.set_experiment` leaves this behind in the process.
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
