"""The cache: a folder that cannot be used is named before any work is done."""

from pathlib import Path

import pytest

from steps.cache_folder import CACHE_VARIABLE, cache_folder, make_cache_folder
from steps.config.sections import Training
from steps.errors import UserError
from steps.tracking.runs import step_run


def test_it_is_made_with_the_folders_above_it(tmp_path: Path) -> None:
    make_cache_folder(tmp_path / "a" / "b")
    make_cache_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/below"])
def test_a_step_with_a_cache_that_cannot_be_written_says_so_before_any_run_is_made(
    place: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / place))
    with (
        pytest.raises(UserError, match=f"{cache_folder()} cannot be written .*{CACHE_VARIABLE}"),
        step_run("probe", Training(), verbose=False),
    ):
        pytest.fail("the step began")
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")
