"""The section evaluation.facts: which facts a model is asked for."""

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from steps.config.base import Section

FactKind = Literal["gene_variant", "gene_disease", "gene_gene", "number"]
FACT_KINDS: tuple[FactKind, ...] = get_args(FactKind)
_DATE = re.compile(r"\d{4}(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12]\d|3[01]))?)?")


class Facts(Section):
    """What is asked about facts that two papers state."""

    items: Annotated[int, Field(ge=0)] = 200
    kinds: tuple[FactKind, ...] = FACT_KINDS
    after: str | None = None

    @field_validator("after", mode="before")
    @classmethod
    def _is_date(cls, value: object) -> object:
        # YAML reads 2024 as a number and 2024-05-01 as a date.
        if value is None:
            return None
        if not _DATE.fullmatch(str(value)):
            raise ValueError(
                f"facts.after is {value}: expected a date as YYYY, YYYY-MM or YYYY-MM-DD"
            )
        return str(value)
