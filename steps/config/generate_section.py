"""The section `generate`: how the step of that name lets models write."""

from typing import Annotated

from pydantic import Field, model_validator

from steps.config.base import Positive, Section


class Generate(Section):
    """How a model goes on from a prompt that somebody gives it."""

    max_new_tokens: Positive = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    num_samples: Positive = 1
    seed: int = 0

    @model_validator(mode="after")
    def _samples_differ(self) -> "Generate":
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"generate.num_samples is {self.num_samples} and generate.temperature is 0, by "
                "which they are all the same: set temperature above 0, or num_samples to 1"
            )
        return self
