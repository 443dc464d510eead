"""The manual: it builds without a warning, and its commands are ones that there are."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steps.config.file import load_config
from tests.support.manual import PAGES, commands, parsed
from tests.support.project import ROOT


def test_every_command_names_an_entry_point_its_parameters_and_a_configuration_that_loads() -> None:
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    seen = 0
    for page in PAGES:
        for words in commands(page):
            entry, parameters = parsed(words)
            known = entry_points[entry]["parameters"]
            assert parameters.keys() <= known.keys(), (page.name, words)
            if "config" in known:
                file = parameters.get("config", known["config"]["default"])
                load_config(ROOT / file, parameters.get("overrides", ""))
            seen += 1
    assert seen >= 30


def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    assert built(tmp_path) == 0


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    """The check above can fail."""
    assert built(tmp_path, "[x](nowhere.md)") != 0


def built(folder: Path, more: str = "") -> int:
    """The exit code of a build of a copy of the manual, with something added to a page."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    with (folder / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{more}\n")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target
