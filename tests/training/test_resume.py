"""A run that was stopped anywhere and resumed ends as one that was never touched."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_pt_utils import safe_globals

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from steps.checkpoints.trainer_state import BEST_WEIGHTS_FILE, ResumePoint, best_step
from steps.config.sections import Quantization
from steps.errors import UserError
from steps.signals import StoppedAtOnce
from steps.training import validation
from tests.support.resumed_runs import (
    At,
    Notes,
    build,
    interrupted,
    point,
    resumed,
    settings,
    untouched,
    weights_digest,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("number", "qlora"),
    [
        (signal.SIGTERM, {"method": "lora"}),
        (signal.SIGINT, {"method": "qlora"}),
        (
            signal.SIGUSR1,
            {"method": "full", "quantization": Quantization(load_in_4bit=False)},
        ),
    ],
    ids=["SIGTERM-lora", "SIGINT-qlora", "SIGUSR1-full"],
)
def test_stopped_by_a_signal_and_resumed_a_run_ends_bit_for_bit_as_untouched(
    tiny_llama_folder: Path, tmp_path: Path, number: int, qlora: dict[str, Any]
) -> None:
    training = settings(tiny_llama_folder, qlora=qlora)
    expected, curve = untouched(training, tmp_path / "untouched")
    # Between two reports, two validations and two regular saves.
    interrupted(training, tmp_path / "first", 7, number)
    found, whole = resumed(training, tmp_path / "second", point(tmp_path / "first", 7))
    assert found == expected
    assert whole.curve == curve.curve


@pytest.mark.slow
@pytest.mark.parametrize(
    "qlora",
    [
        {"method": "dora"},
        {"method": "rslora"},
        {"method": "lora", "bias": "all"},
        {"method": "lora", "modules_to_save": ("embed_tokens",)},
    ],
    ids=["dora", "rslora", "biases", "whole modules"],
)
def test_whatever_is_trained_is_restored(
    tiny_llama_folder: Path, tmp_path: Path, qlora: dict[str, Any]
) -> None:
    qlora["quantization"] = Quantization(load_in_4bit=False)
    training = settings(tiny_llama_folder, qlora=qlora)
    expected, curve = untouched(training, tmp_path / "untouched")
    interrupted(training, tmp_path / "first", 7, signal.SIGTERM)
    found, whole = resumed(training, tmp_path / "second", point(tmp_path / "first", 7))
    assert found == expected
    assert whole.curve == curve.curve


@pytest.mark.parametrize("patience", [0, 1])
def test_every_checkpoint_of_a_run_leads_to_the_same_end(
    tiny_llama_folder: Path, tmp_path: Path, patience: int
) -> None:
    # The "best" validation is the worst, so that the run ends on an early state, and validations
    # are due when an epoch ends, after the checkpoint of its last step has been written.
    logging = {
        "greater_is_better": True,
        "eval_strategy": "epoch",
        "save_steps": 1,
        "early_stopping_patience": patience,
    }
    training = settings(tiny_llama_folder, logging=logging, output={"save_total_limit": None})
    expected, curve = untouched(training, tmp_path / "untouched")
    start, *epochs = (step for name, step in curve.values if name == "validation/loss")
    # Worst of all, but nothing ranks by it.
    assert start == 0
    last = max(step for _, step in curve.values)
    # Early stopping ended it, and is to end the resumed ones at the same step.
    assert (last < 14) == bool(patience)
    best = best_step(tmp_path / "untouched" / f"checkpoint-{last}")
    assert best == epochs[0] < last
    # In an epoch, at its end, past the best state, and after the last step.
    for step in (2, epochs[0], best + 1, last):
        notes = Notes()
        trainer = build(training, tmp_path / f"from-{step}", notes)
        trainer.train(resume=point(tmp_path / "untouched", step))
        assert weights_digest(trainer) == expected, step
        assert trainer.steps_done == last - step
        assert {s for _, s in notes.values if s <= step} <= {step}


def test_a_signal_during_a_validation_ends_the_run_before_it_is_done(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = settings(tiny_llama_folder)
    expected, curve = untouched(training, tmp_path / "untouched")
    # The signal of step 4 is seen at its end, where a validation is due.
    notes = interrupted(training, tmp_path / "first", 4, signal.SIGTERM)
    assert ("validation/loss", 4) not in notes.values
    found, whole = resumed(training, tmp_path / "second", point(tmp_path / "first", 4))
    assert ("validation/loss", 4) in whole.values
    assert found == expected
    assert whole.curve == curve.curve


def test_a_signal_before_the_first_step_leaves_a_checkpoint_of_that_step(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = settings(tiny_llama_folder)
    expected, curve = untouched(training, tmp_path / "untouched")
    score = validation.score_papers

    def told_to_end(*arguments: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(validation, "score_papers", told_to_end)
        notes = Notes()
        build(training, tmp_path / "first", notes).train()
    assert ended.value.code == 143
    assert notes.saved == [1]
    found, whole = resumed(training, tmp_path / "second", point(tmp_path / "first", 1))
    assert found == expected
    assert whole.curve == {key: value for key, value in curve.curve.items() if key[1] > 0}


def test_a_second_signal_leaves_at_once_and_a_launchers_echo_does_not(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def twice(first: int, second: int) -> None:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)

    training = settings(tiny_llama_folder)
    one = build(training, tmp_path / "twice", Notes())
    one.add_callback(At(2, lambda: twice(signal.SIGTERM, signal.SIGTERM)))
    with pytest.raises(StoppedAtOnce) as ended:
        one.train()
    assert ended.value.code == 143
    assert list((tmp_path / "twice").glob("checkpoint-*")) == []

    # Ctrl-C reaches the step and `mlflow run`, which then terminates the step.
    other = build(training, tmp_path / "echo", Notes())
    other.add_callback(At(2, lambda: twice(signal.SIGINT, signal.SIGTERM)))
    with pytest.raises(SystemExit) as ended:
        other.train()
    assert ended.value.code == 130
    assert not isinstance(ended.value, StoppedAtOnce)
    assert (tmp_path / "echo" / "checkpoint-2").is_dir()
    # And the handlers of whoever called are in place again.
    assert signal.getsignal(signal.SIGTERM) == before


def test_minutes_save_besides_the_steps(tiny_llama_folder: Path, tmp_path: Path) -> None:
    training = settings(tiny_llama_folder, logging={"save_minutes": 1e-9, "eval_strategy": "no"})
    notes = Notes()
    build(training, tmp_path, notes).train()
    assert sorted(set(notes.saved)) == list(range(1, 15))


@pytest.mark.parametrize("strict", [False, True])
def test_a_save_that_fails_leaves_the_one_before_and_stops_only_if_strict(
    tiny_llama_folder: Path, tmp_path: Path, strict: bool
) -> None:
    training = settings(
        tiny_llama_folder,
        logging={"save_strict": strict, "greater_is_better": True, "eval_steps": 7},
        output={"save_total_limit": None},
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    notes = Notes()
    one = build(training, tmp_path, notes)
    # Neither the best state (step 7) nor step 10 fits on the disk; step 14 does again.
    one.add_callback(At(7, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))))
    one.add_callback(At(12, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)))
    try:
        if strict:
            with pytest.raises(OSError, match=r"File too large|failed"):
                one.train()
        else:
            one.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(validate_checkpoint(tmp_path / "checkpoint-5"), CheckpointInfo)
    assert "checkpoint-7 could not be written" in notes.failures[0]
    assert not (tmp_path / "checkpoint-10").exists()
    assert [path.name for path in tmp_path.glob(".checkpoint*")] == []
    if not strict:
        assert notes.saved == [5, 14]
        # The best state had no checkpoint of its own: the next one holds it.
        last = tmp_path / "checkpoint-14"
        assert best_step(last) == 7
        assert (last / BEST_WEIGHTS_FILE).is_file()
        again = build(training, tmp_path / "again", Notes())
        again.train(resume=ResumePoint(last, 14))
        assert weights_digest(again) == weights_digest(one)


def test_a_checkpoint_is_little_more_than_trained_tensors_and_optimiser_state(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = settings(tiny_llama_folder, qlora={"r": 64})
    one = build(training, tmp_path, Notes())
    one.train()
    trained = [p for p in one.model.parameters() if p.requires_grad]
    # AdamW keeps two float32 moments of each.
    needed = sum(p.numel() * (p.element_size() + 8) for p in trained)
    files = list((tmp_path / "checkpoint-14").rglob("*"))
    assert sum(file.stat().st_size for file in files) <= 1.2 * needed
    for file in files:
        if file.suffix in (".pt", ".pth", ".bin"):
            with safe_globals():
                torch.load(file, weights_only=True)


def test_another_number_of_rows_in_a_pass_is_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = settings(tiny_llama_folder)
    interrupted(training, tmp_path, 2, signal.SIGTERM)
    changed = training.model_copy(
        update={"hyperparameters": training.hyperparameters.model_copy(update={"batch_size": 4})}
    )
    with pytest.raises(UserError, match="batch_size is 2, now it is 4"):
        build(changed, tmp_path / "other", Notes()).train(resume=point(tmp_path, 2))
