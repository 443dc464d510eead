"""What a sweep may try: each value, and what values are together, checked before any training.

space = checked_space(loaded, sections)     # UserError: the first thing that is wrong
space.grid()                                # every combination, where there is an end of them
trial_overrides(loaded, {"qlora.r": 8})     # what a trial's finetune is started with
"""

import itertools
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steps.config.dotted import dotted
from steps.config.file import LoadedConfig, Variations
from steps.config.sections import Training
from steps.config.sweep_section import Range
from steps.errors import UserError

# What decides how trials are measured: it has to be the same of all.
MEASURES = {
    "logging.metric_for_best_model",
    "logging.greater_is_better",
    "logging.eval_strategy",
    "logging.load_best_model_at_end",
}
# What moves the points at which trials are validated along their training.
MOVES_VALIDATIONS = {
    "hyperparameters.batch_size",
    "hyperparameters.gradient_accumulation_steps",
    "logging.eval_steps",
    "model.max_length",
}
# Combinations that are checked of a space that has more.
CHECKED_COMBINATIONS = 500
# A grid of more would take longer to check than anybody waits.
LARGEST_GRID = 10_000


@dataclass(frozen=True)
class Numbers:
    """A range of numbers, as it is drawn from.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether its logarithm is drawn evenly.
        step: Between two neighbours; None: any number in between.
        is_integral: Whether they are whole.
    """

    low: float
    high: float
    log: bool
    step: float | None
    is_integral: bool

    def every(self) -> list[Any] | None:
        """All of them, or None where there is no end of them."""
        if self.step is None or self.log:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        found = [self.low + place * self.step for place in range(count)]
        # 0.1 + 2 * 0.1 is 0.30000000000000004.
        return [int(one) if self.is_integral else float(f"{one:.12g}") for one in found]


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, by their key.

    Attributes:
        parameters: Candidates, or a range.
    """

    parameters: Mapping[str, Sequence[Any] | Numbers]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination, the last parameter fastest; ranges without end have none."""
        lists = [_every(values) or () for values in self.parameters.values()]
        for combination in itertools.product(*lists):
            yield dict(zip(self.parameters, combination, strict=True))

    @property
    def size(self) -> int | None:
        """How many combinations there are; None: no end of them."""
        counts = [_every(values) for values in self.parameters.values()]
        return None if None in counts else math.prod(len(every or ()) for every in counts)

    def edges(self, seed: int) -> Iterator[dict[str, Any]]:
        """Combinations of candidates and of the ends of ranges: all, or a drawn part of many."""
        lists = [
            (values.low, values.high) if isinstance(values, Numbers) else values
            for values in self.parameters.values()
        ]
        combinations: Iterator[tuple[Any, ...]] = itertools.product(*lists)
        if math.prod(map(len, lists)) > CHECKED_COMBINATIONS:
            draw = random.Random(seed)
            combinations = (
                tuple(draw.choice(list(one)) for one in lists) for _ in range(CHECKED_COMBINATIONS)
            )
        for combination in combinations:
            yield dict(zip(self.parameters, combination, strict=True))


def _every(values: Sequence[Any] | Numbers) -> Sequence[Any] | None:
    return values.every() if isinstance(values, Numbers) else values


def checked_space(loaded: LoadedConfig, sections: Collection[str]) -> Space:
    """The space of a configuration's sweep, once all of it has been held against the types.

    Args:
        loaded: The configuration.
        sections: Those that a finetune run reads.

    Raises:
        UserError: Nothing to vary, an unknown key, a value or a combination that is refused, a
            grid without end, no budget, or nothing that trials could be ranked by.
    """
    sweep = loaded.training.sweep
    if not sweep.parameters:
        raise UserError(
            f"{loaded.path}: training.sweep.parameters is empty: name keys and what to try, as "
            "{qlora.r: [8, 16, 32]}, or take configs/sweep.yaml as a pattern"
        )
    for key in sweep.parameters:
        _check_key(key, sections)
    _check_nesting(list(sweep.parameters))
    _check_measured(loaded.training)
    where = f"{loaded.path.name}, training.sweep.parameters"
    varied = Variations(loaded)
    space = Space(
        {key: _values(varied, where, key, given) for key, given in sweep.parameters.items()}
    )
    _check_budget(loaded.training, space)
    combinations = space.grid() if sweep.method == "grid" else space.edges(sweep.seed)
    limit = sweep.trials if sweep.method == "grid" else None
    for values in itertools.islice(combinations, limit):
        _check_steps(varied.check(values, where))
    return space


def _check_key(key: str, sections: Collection[str]) -> None:
    section = key.partition(".")[0]
    name = f"training.sweep.parameters names {key}"
    if section not in Training.model_fields:
        # The types say what it is like.
        return
    if section not in sections:
        raise UserError(
            f"{name}, which a training does not read, so that all trials would be the same: name "
            f"keys of {', '.join(sections)}"
        )
    if section == "model" and key != "model.max_length":
        raise UserError(
            f"{name}: the trials of a sweep train one base, since a validation metric compares "
            "the trials of one alone: make a sweep of each base, or entries of training.variants"
        )
    if key in MEASURES or section == key == "logging":
        raise UserError(f"{name}, by which trials are ranked: it has to be the same for all")


def _check_nesting(keys: list[str]) -> None:
    for one in keys:
        for other in keys:
            if other.startswith(f"{one}."):
                raise UserError(
                    f"training.sweep.parameters names {one} and {other}, which is a part of it: "
                    "leave one out"
                )


def _check_measured(training: Training) -> None:
    if training.logging.eval_strategy == "no":
        raise UserError(
            "training.logging.eval_strategy is 'no', and a sweep ranks its trials by their "
            "validation: set it to steps or epoch"
        )
    moved = MOVES_VALIDATIONS & set(training.sweep.parameters)
    if training.sweep.pruner != "none" and moved and training.logging.eval_strategy == "steps":
        raise UserError(
            f"training.sweep.pruner is {training.sweep.pruner!r}, which compares trials after as "
            f"many validations, and {min(moved)} moves those: set logging.eval_strategy to epoch, "
            "or the pruner to none"
        )


def _check_steps(training: Training) -> None:
    """Refuse a training that ends before its first validation, as far as the steps are known.

    Raises:
        UserError: It does.
    """
    steps, every = training.hyperparameters.max_steps, training.logging.eval_steps
    if training.logging.eval_strategy == "steps" and 0 < steps < every:
        raise UserError(
            f"training.logging.eval_steps is {every} and hyperparameters.max_steps {steps}: no "
            "trial would be validated, and a sweep ranks them by that: lower eval_steps"
        )


def _values(
    varied: Variations, where: str, key: str, given: Range | Sequence[Any]
) -> Sequence[Any] | Numbers:
    """One parameter's values, each held against the types by itself."""
    name = f"{where}, {key}"
    ends = (given.low, given.high) if isinstance(given, Range) else given
    for value in ends:
        varied.check({key: value}, name)
    if not isinstance(given, Range):
        return list(given)
    fractions = _takes_fractions(varied, key, given)
    whole = given.is_integral and (given.step is not None or not fractions)
    if not whole and not fractions:
        raise UserError(
            f"{name}: the key takes whole numbers alone, and {_as_text(given)} holds others: give "
            "low, high and step as whole numbers"
        )
    step = 1 if given.step is None and whole else given.step
    numbers = Numbers(given.low, given.high, given.log, step, whole)
    every = numbers.every()
    # What no step reaches is never drawn.
    return numbers if every is None else replace(numbers, high=every[-1])


def _takes_fractions(varied: Variations, key: str, given: Range) -> bool:
    between = next(
        (one for one in (math.floor(given.low) + 0.5, given.low, given.high) if one % 1), None
    )
    if between is None or not given.low <= between <= given.high:
        return True
    try:
        varied.check({key: between}, "")
    except UserError:
        return False
    return True


def _as_text(given: Range) -> str:
    return json.dumps(given.model_dump(exclude_none=True))


def _check_budget(training: Training, space: Space) -> None:
    sweep = training.sweep
    if sweep.method != "grid":
        if sweep.trials is None and sweep.hours is None:
            raise UserError(
                f"training.sweep.method is {sweep.method!r}, which has no end of its own: set "
                "training.sweep.trials or hours"
            )
        return
    for key, values in space.parameters.items():
        if _every(values) is None:
            raise UserError(
                f"training.sweep.method is 'grid', and {key} is a range without end: list its "
                "candidates, give it a step, or set the method to random or tpe"
            )
    size = space.size or 0
    if size > LARGEST_GRID:
        raise UserError(
            f"the grid of training.sweep has {size:,} combinations: leave candidates out, or set "
            "the method to random or tpe"
        )


def trial_overrides(loaded: LoadedConfig, values: Mapping[str, Any]) -> str:
    """The overrides by which a finetune run trains with these values.

    The variants are left out: they are no part of a trial, and might contradict its values.
    """
    assignments = [*dotted("training", values), 'training.variants={"default":{}}']
    return f"{loaded.overrides} {' '.join(assignments)}".strip()
