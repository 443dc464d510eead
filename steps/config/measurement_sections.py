"""The sections evaluation and comparison: what is measured, and what is decided by it."""

import itertools
from typing import Annotated, Literal

from pydantic import Field, field_validator

from steps.config.base import Positive, Section
from steps.config.facts_section import Facts


class Generation(Section):
    """What the evaluated model is asked to write."""

    prompts: Annotated[int, Field(ge=0)] = 80
    max_new_tokens: Positive = 64


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
