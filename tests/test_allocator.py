"""A step keeps the memory that it has freed, unless its user has chosen otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steps.allocator import keep_freed_memory

PROJECT = Path(__file__).parents[1]

# A step that takes and frees 200 MB, and prints how many pages it faults in when it does so again.
PROGRAM = """
import resource
import click
from steps.cli import step_command

def pages_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * (200 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

@click.command()
@step_command()
def step(config_path, overrides, verbose):
    first, again = pages_of_a_block(), pages_of_a_block()
    print(again)

step()
"""


def pages_faulted_in_again(**environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_a_step_faults_in_a_block_once_and_not_again() -> None:
    assert pages_faulted_in_again() < 50


def test_what_the_environment_says_of_malloc_stands() -> None:
    assert pages_faulted_in_again(MALLOC_TRIM_THRESHOLD_="131072") > 1000


def test_nothing_is_told_to_another_system_or_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_freed_memory()
    with monkeypatch.context() as patched:
        patched.setattr(os, "confstr", lambda _: "musl 1.2")
        assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
