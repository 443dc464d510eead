"""Patterns with possessive groups match the same on every Python 3.11."""

import sys

import pytest

from steps.papers.possessive import compile_possessive

# A string that does not close: the group fails in its second round, and what the first one took
# has to stay. Python before 3.11.5 steps back too far.
PATTERN = rb'[^"]*+(?:"[^"]*+"[^"]*+)*+'
TEXT = b'{"title": "closed", "abstract": "open'


@pytest.mark.parametrize("version", [sys.version_info[:3], (3, 11, 2)])
def test_a_group_that_fails_half_way_keeps_what_it_had(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr("steps.papers.possessive.sys.version_info", version)
    match = compile_possessive(PATTERN).match(TEXT)
    assert match is not None
    assert TEXT[match.end() :] == b'"open'
