"""The sections evaluation and comparison: what is measured, and what is decided by it."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from steps.config.base import Positive, Section
from steps.config.facts_section import Facts

# In front of a metric's name: it is one of a task, `task/NAME/acc`.
TASK = "task/"
YAML_SUFFIXES = (".yaml", ".yml")


class Generation(Section):
    """What the evaluated model is asked to write."""

    prompts: Annotated[int, Field(ge=0)] = 80
    max_new_tokens: Positive = 64


TaskFormat = Literal["auto", "mmlu", "pubmedqa", "geneturing", "geneturing_choice", "yaml"]


class HarnessTask(Section):
    """A task of lm-evaluation-harness, on the hub's data or on a local file."""

    name: str = ""
    file: str | None = None
    format: TaskFormat = "auto"
    fewshot_file: str | None = None
    ground_truth: str | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Positive | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "HarnessTask":
        is_yaml = self.file is not None and self.file.endswith(YAML_SUFFIXES)
        if not self.name and not is_yaml:
            raise ValueError("a task needs a name, unless its file is a task YAML, which has one")
        if self.file is None:
            for key in ("format", "fewshot_file", "ground_truth"):
                if getattr(self, key) not in (None, "auto"):
                    raise ValueError(
                        f"task {self.name!r} has a {key} and no file that it goes with"
                    )
        return self


def _as_task(entry: Any) -> Any:
    """A task that is given by its name, or by the path of its YAML alone."""
    if not isinstance(entry, str):
        return entry
    return {"file": entry} if entry.endswith(YAML_SUFFIXES) else {"name": entry}


class Evaluation(Section):
    """How a model is measured on held-out papers."""

    context: Positive | None = None
    stride: Positive | None = None
    batch_tokens: Positive = 4096
    bootstrap_samples: Positive = 2000
    seed: int = 0
    general_texts: str | None = "data/general_texts_demo.json"
    generation: Generation = Generation()
    cloze_items: Annotated[int, Field(ge=0)] = 200
    facts: Facts = Facts()
    score_bands: tuple[float, ...] = (60, 80)
    pseudo_likelihood_tokens: Annotated[int, Field(ge=0)] = 32
    answers: Annotated[int, Field(ge=0)] = 200
    instruction_following: bool = False
    allow_trained_papers: bool = False
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    tasks: tuple[
        Annotated[HarnessTask, BeforeValidator(_as_task, json_schema_input_type=HarnessTask | str)],
        ...,
    ] = ()

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, value: tuple[HarnessTask, ...]) -> tuple[HarnessTask, ...]:
        names = [task.name or task.file for task in value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"task {twice[0]!r} is named twice")
        return value

    @field_validator("score_bands")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise(value)):
            raise ValueError(f"score_bands are {list(value)}: each has to be above the one before")
        return value


class Guard(Section):
    """A non-inferiority bound that a challenger has to respect."""

    metric: str
    margin: float
    direction: Literal["lower_is_better", "higher_is_better"] = "lower_is_better"
    reference: str | None = None
    optional: bool = False

    @model_validator(mode="before")
    @classmethod
    def _more_is_better_in_tasks(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and str(content.get("metric", "")).startswith(TASK):
            return {"direction": "higher_is_better", **content}
        return content


DEFAULT_GUARDS = (
    Guard(metric="general", margin=0.03),
    Guard(
        metric="unknown_gene_share",
        margin=0.10,
        reference="reference_unknown_gene_share",
        optional=True,
    ),
    Guard(metric="memorised_share", margin=0.02),
)


class Comparison(Section):
    """The promotion rule."""

    metric: str = "auto"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    min_gain: Annotated[float, Field(ge=0)] = 0.002
    min_papers: Positive = 6
    cluster_by: str | None = None
    bootstrap_samples: Positive = 2000
    permutations: Positive = 20000
    seed: int = 0
    guards: tuple[Guard, ...] = DEFAULT_GUARDS
