"""The `mlflow run` commands of README and of the manual."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.support.project import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(
    r"^(?:```(?:bash)?\n(?P<fenced>.*?)^```|"
    r"(?P<indented> {4}mlflow run [^\n]*\n(?: {4}[^\n]*\n)*))",
    re.M | re.S,
)
# Options of `mlflow run` itself that take a value.
MLFLOW_OPTIONS = ("--env-manager", "--backend", "--backend-config")


def commands(page: Path) -> Iterator[list[str]]:
    """The `mlflow run .` commands of a page, word by word, without those three words."""
    for found in CODE.finditer(page.read_text(encoding="utf-8")):
        block = (found["fenced"] or found["indented"]).replace("\\\n", " ")
        for line in block.splitlines():
            if "mlflow run ." not in line:
                continue
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:3] == ["mlflow", "run", "."]:
                    yield words[3:]


def parsed(words: list[str]) -> tuple[str, dict[str, str]]:
    """The entry point and its parameters."""
    entry, parameters = "main", {}
    rest = iter(words)
    for word in rest:
        value = next(rest)
        if word == "-e":
            entry = value
        elif word == "-P":
            name, _, given = value.partition("=")
            parameters[name] = given
        else:
            assert word in MLFLOW_OPTIONS, words
    return entry, parameters
