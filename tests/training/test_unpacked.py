"""A model that bears no packing trains as one that does: same losses, same resume."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.architectures import CAUSAL
from tests.support.resumed_runs import interrupted, point, resumed, untouched
from tests.support.resumed_runs import settings as settings_of_run
from tests.support.tiny_architectures import save
from tests.support.tiny_runs import (
    assert_accumulation_changes_nothing,
    build_trainer,
    papers,
    small_training,
)

# Padded: capped attention, a state space. One document a pass: positions that depend on length.
UNPACKED = ("gemma2", "jamba", "phi3-longrope")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=UNPACKED)
def folder(request: Any, tmp_path: Path) -> Path:
    architecture = next(one for one in CAUSAL if str(one) == request.param)
    return save(architecture, tmp_path / request.param)


def test_accumulation_changes_neither_the_losses_nor_the_adapter(
    folder: Path, tmp_path: Path
) -> None:
    def build(rows: int, accumulation: int) -> Any:
        training = small_training(
            folder, batch_size=rows, gradient_accumulation_steps=accumulation, learning_rate=1e-3
        )
        return build_trainer(training, tmp_path / f"{rows}", papers(12), papers(3))

    assert_accumulation_changes_nothing(build)


def test_a_stopped_and_resumed_run_ends_bit_for_bit_as_untouched(
    folder: Path, tmp_path: Path
) -> None:
    training = settings_of_run(folder)
    expected, curve = untouched(training, tmp_path / "untouched")
    interrupted(training, tmp_path / "first", 5, signal.SIGTERM)
    found, whole = resumed(training, tmp_path / "second", point(tmp_path / "first", 5))
    assert found == expected
    assert whole.curve == curve.curve


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gemma2", "note: documents are not packed, because its attention caps its scores: about "),
        ("phi3-longrope", "% slower, one document a forward pass"),
    ],
)
def test_the_run_says_once_that_documents_are_not_packed_and_what_it_costs(
    name: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = next(one for one in CAUSAL if str(one) == name)
    training = small_training(save(architecture, tmp_path / name), batch_size=4)
    trainer = build_trainer(training, tmp_path / "run", papers(12), [])
    said = capsys.readouterr()
    assert (said.out + said.err).count(line) == 1
    assert trainer.args.per_device_train_batch_size == (1 if "one document" in line else 4)
    assert trainer.args.gradient_accumulation_steps == (4 if "one document" in line else 1)
