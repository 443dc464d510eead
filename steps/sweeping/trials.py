"""What became of the trials of a sweep, and how they rank."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steps.config.dotted import short_names

State = Literal["complete", "stopped", "failed"]


@dataclass(frozen=True)
class Objective:
    """What trials are ranked by.

    Attributes:
        metric: As the store has it: `validation/bits_per_byte`.
        higher_is_better: Which way.
    """

    metric: str
    higher_is_better: bool

    def value_of(self, history: Sequence[float], *, keeps_best: bool) -> float:
        """The value of a training.

        Args:
            history: Of its validations; there is at least one.
            keeps_best: Whether it ends on its best validated weights; else its last count.
        """
        if not keeps_best:
            return history[-1]
        return max(history) if self.higher_is_better else min(history)


@dataclass(frozen=True)
class Trial:
    """One trial that has ended.

    Attributes:
        number: From 0, in the order of the search.
        values: What it was trained with, by key.
        state: `stopped`: by the pruner, before its end.
        value: Of the metric; None of one that failed.
        history: The metric at each of its validations.
        run_id: Its finetune run; None where none was made.
        tokens: That it was trained on.
        seconds: From the start of its run to its end.
        reused: Whether an earlier run has been taken for it.
        reason: Why it failed or was stopped.
        exit_code: Of one that failed.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    value: float | None = None
    history: Sequence[float] = field(default=())
    run_id: str | None = None
    tokens: float = 0.0
    seconds: float = 0.0
    reused: bool = False
    reason: str = ""
    exit_code: int = 2


def ranked(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials, the best first: whole ones, then stopped ones, then those that failed.

    Of equals the earlier one comes first.
    """
    order = {"complete": 0, "stopped": 1, "failed": 2}

    def key(trial: Trial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None else 0.0
        return order[trial.state], -value if objective.higher_is_better else value, trial.number

    return sorted(trials, key=key)


def winner_of(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The best of those that were trained to their end."""
    best = ranked(trials, objective)
    return best[0] if best and best[0].state == "complete" else None


def counted(trials: int) -> str:
    """A number of trials, as `1 trial` or `3 trials`."""
    return f"{trials} trial{'' if trials == 1 else 's'}"


def in_words(values: Mapping[str, Any]) -> str:
    """Values as a line: `r=8, learning_rate=0.0002`."""
    names = short_names(values)
    return ", ".join(f"{names[key]}={in_words_of(value)}" for key, value in values.items())


def in_words_of(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
