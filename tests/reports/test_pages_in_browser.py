"""Each page as its readers see it: on a phone and a desk, light and dark, by axe-core's rules."""

from pathlib import Path

import pytest

from tests.support.browser import look_at
from tests.support.trained_store import Trained

pytestmark = pytest.mark.slow
PAGES = {
    "preprocess": "report.html",
    "evaluate": "report.html",
    "ab_compare": "report.html",
    "release": "report.html",
    "compare_runs": "comparison.html",
    "generate": "generations.html",
}


@pytest.fixture(scope="module")
def reported(trained: Trained) -> Trained:
    """A store in which each step has left its page."""
    trained.step("evaluate")
    trained.step("ab_compare")
    trained.step("release", "--model", "models:/tiny/1")
    trained.step("finetune", "--overrides", "qlora.r=4")
    trained.step("compare_runs")
    trained.step("generate", "--model", "models:/tiny/1", "--prompt", "Loss of BRCA1")
    return trained


@pytest.mark.parametrize("step", PAGES)
def test_a_report_fits_every_window_and_axe_objects_to_nothing(
    step: str, reported: Trained, tmp_path: Path
) -> None:
    run = reported.runs(step)[0]
    page = reported.fetch(run.info.run_id, PAGES[step], tmp_path).read_text(encoding="utf-8")
    for width in (360, 800, 1280):
        for dark in (False, True):
            seen = look_at(page, tmp_path, width=width, dark=dark)
            assert seen.overflow <= 0, (width, seen)
            assert seen.narrow == []
            assert seen.violations == []
            assert seen.console == []


def test_the_browser_finds_what_is_wrong(tmp_path: Path) -> None:
    """The checks above can fail."""
    page = (
        "<!doctype html><html><head><title>x</title></head><body><p style='width:900px'>wide</p>"
        "<table style='table-layout:fixed;width:10px;overflow-wrap:anywhere'>"
        "<tr><td>letters</td><td>column</td></tr></table><script>throw Error('e')</script>"
    )
    seen = look_at(page, tmp_path, width=360, dark=True)
    assert seen.overflow > 0
    assert seen.narrow == ["letters", "column"]
    assert any(one.startswith("html-has-lang") for one in seen.violations)
    assert seen.console
