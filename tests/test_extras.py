"""Extras: what is missing is named with a command that installs it."""

import sys
from typing import get_args

import pytest

from steps.errors import UserError
from steps.extras import FOLDER, MODULES, Extra, require_extra
from tests.support.extras import extra_folder


def test_every_extra_is_pinned_exactly_and_has_a_module_to_look_for() -> None:
    assert set(get_args(Extra)) == set(MODULES) == {file.stem for file in FOLDER.glob("*.txt")}
    for file in FOLDER.glob("*.txt"):
        lines = file.read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if line and not line.startswith(("#", "-c"))]
        assert packages and all("==" in line for line in packages)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODULES, "s3", "no_such_module_is_installed")
    with pytest.raises(UserError) as raised:
        require_extra("s3", "s3://bucket")
    assert str(raised.value) == (
        "s3://bucket needs no_such_module_is_installed, which is not installed: "
        f"uv pip install --python {sys.executable} -r {FOLDER / 's3.txt'}"
    )


def test_an_installed_extra_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(extra_folder("s3")))
    require_extra("s3", "s3://bucket")
