"""The section `sweep`: which values of which keys are tried, how, and for how long."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from steps.config.base import Positive, Section

# By these words a mapping is a range, and not a section with keys in it.
WORDS_OF_A_RANGE = ("low", "high", "log", "step")


class Range(Section):
    """The numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def is_integral(self) -> bool:
        """Whether all its numbers are written as whole ones."""
        given = (self.low, self.high, *(() if self.step is None else (self.step,)))
        return all(isinstance(number, int) for number in given)


class Sweep(Section):
    """What `sweep` varies, and its budget."""

    parameters: dict[str, Range | tuple[Any, ...]] = Field(default={})
    method: Literal["grid", "random", "tpe"] = "tpe"
    trials: Positive | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    pruner: Literal["none", "median", "hyperband"] = "none"
    startup_trials: Positive = 5

    @field_validator("parameters", mode="before")
    @classmethod
    def _by_dotted_key(cls, value: Any) -> Any:
        """Take `{qlora: {r: [8]}}` for `{qlora.r: [8]}`, and say what a range lacks."""
        if not isinstance(value, Mapping):
            return value
        # An override stands behind what the file says, maybe as sections; null takes that out.
        last = {key.removeprefix("training."): values for key, values in _flat("", value)}
        given = {key: values for key, values in last.items() if values is not None}
        for key, values in given.items():
            _check_values(f"sweep.parameters.{key}", values)
        return given


def _flat(prefix: str, content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and not value.keys() & set(WORDS_OF_A_RANGE):
            yield from _flat(f"{name}.", value)
        else:
            yield name, value


def _check_values(key: str, values: Any) -> None:
    """Refuse what is neither candidates nor a range.

    Raises:
        ValueError: The message names the key.
    """
    if isinstance(values, list | tuple):
        if not values:
            raise ValueError(f"{key} is an empty list: give candidates, as [8, 16, 32]")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"{key} holds {twice[0]!r} twice: leave one out")
        return
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{key} is {values!r}: give a list of candidates, as [8, 16, 32], or a range, as "
            "{low: 1e-5, high: 1e-3, log: true}"
        )
    unknown = [str(word) for word in values if word not in WORDS_OF_A_RANGE]
    if unknown:
        raise ValueError(f"{key}: a range has {', '.join(WORDS_OF_A_RANGE)}, not {unknown[0]!r}")
    low, high, step = (values.get(word, 0) for word in ("low", "high", "step"))
    for word in ("low", "high", "step"):
        number = values.get(word)
        is_left_out = word == "step" and number is None
        if not is_left_out and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{key}: {word} is {number!r}, expected a number")
    if not low < high:
        raise ValueError(f"{key}: low is {low!r}, which has to be below high ({high!r})")
    if values.get("log") and low <= 0:
        raise ValueError(f"{key}: log is true and low is {low!r}, which has to be above 0 then")
    if values.get("log") and step:
        raise ValueError(f"{key}: log and step exclude each other: leave one out")
    if values.get("step") is not None and not 0 < step <= high - low:
        raise ValueError(
            f"{key}: step is {step!r}, and has to be above 0 and at most high - low ({high - low})"
        )
