"""Training runs that are stopped at a step and go on, and all that they reported."""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import transformers

from steps.checkpoints.format import CheckpointInfo, validate_checkpoint
from steps.checkpoints.trainer_state import ResumePoint, best_step
from steps.config.sections import (
    Hardware,
    Hyperparameters,
    Logging,
    MemoryOptimization,
    Model,
    Optimizer,
    Output,
    Qlora,
    Replay,
    StudyTexts,
    Training,
)
from steps.config.tokenizer_section import Tokenizer
from steps.training.trainer import ModelTrainer
from tests.support.tiny_runs import build_trainer, papers


class Notes:
    """A recorder that keeps what it is told in memory."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float] = {}
        self.repeated: list[tuple[str, int]] = []
        self.saved: list[int] = []
        self.failures: list[str] = []

    def metrics(self, values: Any, step: int) -> None:
        for name, value in values.items():
            if (name, step) in self.values:
                self.repeated.append((name, step))
            self.values[name, step] = value

    def checkpoint(self, folder: Path, step: int, metrics: Any) -> None:
        self.saved.append(step)

    def checkpoint_failed(self, step: int, reason: str) -> None:
        self.failures.append(reason)

    def uploading(self) -> set[int]:
        return set()

    @property
    def curve(self) -> dict[tuple[str, int], float]:
        """What does not depend on the clock or on the machine's memory."""
        timed = ("train/tokens_per_second", "train/memory_gb")
        return {key: value for key, value in self.values.items() if key[0] not in timed}


class At(transformers.TrainerCallback):
    """Does something in the middle of one step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step - 1:
            self.what()


def settings(folder: Path, **sections: dict[str, Any]) -> Training:
    """A tiny run of 14 steps over several epochs, with dropout and accumulation."""
    logging = {"log_steps": 3, "eval_steps": 4, "save_steps": 5, **sections.get("logging", {})}
    return Training(
        model=Model(name=str(folder), max_length=128),
        qlora=Qlora(**{"method": "lora", "r": 4, "lora_dropout": 0.2, **sections.get("qlora", {})}),
        hyperparameters=Hyperparameters(
            **{
                "batch_size": 2,
                "gradient_accumulation_steps": 2,
                "max_steps": 14,
                "learning_rate": 3e-2,
                "warmup_steps": 2,
                **sections.get("hyperparameters", {}),
            }
        ),
        tokenizer=Tokenizer(**sections.get("tokenizer", {})),
        optimizer=Optimizer(**sections.get("optimizer", {})),
        logging=Logging(**logging),
        output=Output(**sections.get("output", {})),
        memory_optimization=MemoryOptimization(gradient_checkpointing=False),
        hardware=Hardware(bf16=False, **sections.get("hardware", {})),
        replay=Replay(**sections.get("replay", {})),
        study_texts=StudyTexts(**sections.get("study_texts", {})),
    )


def build(training: Training, folder: Path, recorder: Notes) -> ModelTrainer:
    return build_trainer(training, folder, papers(8), papers(3), recorder=recorder)


def weights_digest(trainer: ModelTrainer) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def untouched(training: Training, folder: Path) -> tuple[str, Notes]:
    notes = Notes()
    trainer = build(training, folder, notes)
    trainer.train()
    return weights_digest(trainer), notes


def interrupted(training: Training, folder: Path, step: int, number: int) -> Notes:
    """Train until a signal comes at the end of a step."""
    notes = Notes()
    trainer = build(training, folder, notes)
    trainer.add_callback(At(step, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == (130 if number == signal.SIGINT else 143)
    return notes


def point(folder: Path, step: int, *others: Path) -> ResumePoint:
    """The checkpoint of a step, and that of the best step wherever it lies."""
    checkpoint = folder / f"checkpoint-{step}"
    assert isinstance(validate_checkpoint(checkpoint), CheckpointInfo)
    best = best_step(checkpoint)
    places = [place / f"checkpoint-{best}" for place in (folder, *others)]
    return ResumePoint(checkpoint, step, next((p for p in places if p.is_dir()), None))


def resumed(training: Training, folder: Path, at: ResumePoint) -> tuple[str, Notes]:
    """Resume to the end; the notes hold what was reported before as well."""
    notes = Notes()
    trainer = build(training, folder, notes)
    trainer.train(resume=at)
    assert trainer.state.global_step == 14
    whole = Notes()
    for report in trainer.progress.reports:
        whole.metrics(report.metrics, report.step)
    # The resumed process itself reports what comes after the checkpoint, and nothing twice.
    assert notes.repeated == whole.repeated == []
    return weights_digest(trainer), whole


def assert_resumes_as_untouched(training: Training, folder: Path, step: int) -> Notes:
    """A run that is stopped after a step and resumed ends bit for bit as one that is not.

    Returns:
        What the untouched run has noted.
    """
    expected, curve = untouched(training, folder / "untouched")
    interrupted(training, folder / "first", step, signal.SIGTERM)
    found, whole = resumed(training, folder / "second", point(folder / "first", step))
    assert found == expected
    assert whole.curve == curve.curve
    return curve
