"""The section evaluation.facts."""

import datetime

import pytest
from pydantic import ValidationError

from steps.config.facts_section import Facts


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, None),
        # As YAML reads them.
        (2024, "2024"),
        (datetime.date(2024, 5, 31), "2024-05-31"),
        ("2024-05", "2024-05"),
    ],
)
def test_a_date_is_read_as_it_is_written(given, read):
    assert Facts(after=given).after == read


@pytest.mark.parametrize("given", [24, "May 2024", "2024-13", "2024-05-40", True])
def test_what_is_no_date_is_refused_by_name(given):
    with pytest.raises(ValidationError, match=rf"facts\.after is {given}: expected a date as YYYY"):
        Facts(after=given)


def test_a_kind_that_nobody_knows_is_refused():
    with pytest.raises(ValidationError, match="gene_variant"):
        Facts(kinds=("gene_colour",))
