"""The section `release`: in which forms a model is handed on, and how close each has to score."""

from typing import Annotated, Literal

from pydantic import Field

from steps.config.base import Positive, Section

FormName = Literal["adapter", "merged", "gguf:f16", "gguf:q8_0", "gguf:q4_k_m", "onnx"]


class MaxLoss(Section):
    """By how much a form may differ from the version that it is made from."""

    near_lossless: Annotated[float, Field(ge=0)] = 0.002
    four_bit: Annotated[float, Field(ge=0)] = 0.02
    masked: Annotated[float, Field(ge=0)] = 0.01


class Release(Section):
    """What `release` makes, and what it refuses."""

    formats: tuple[FormName, ...] | Literal["auto"] = "auto"
    max_loss: MaxLoss = MaxLoss()
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    merge_onto: Literal["full_precision", "as_trained"] = "full_precision"
    prompts: Annotated[int, Field(ge=0)] = 20
    new_tokens: Positive = 64
    allowed_licenses: tuple[str, ...] | None = None
    retracted: str | None = None
