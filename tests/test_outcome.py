"""`--json`: one object on stdout, whatever else is said, how ever the step ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.outcome import add, as_json, is_wanted
from tests.support.project import ROOT


def outcome_of(step: str, *arguments: str, **variables: str) -> tuple[dict[str, Any], str]:
    """The object that a step prints, and what it says besides."""
    done = subprocess.run(
        [sys.executable, "-m", f"steps.{step}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )
    (line,) = done.stdout.splitlines()
    content = json.loads(line)
    assert content["exit_code"] == done.returncode
    return content, done.stderr


def test_a_step_prints_its_run_its_tags_and_its_figures(store: str, tiny_config: Path) -> None:
    import mlflow

    found, said = outcome_of("preprocess", "--config", str(tiny_config), "--json")
    assert (found["step"], found["status"], found["error"]) == ("preprocess", "FINISHED", None)
    run = mlflow.MlflowClient(store).get_run(found["run_id"])
    assert found["metrics"] == run.data.metrics
    assert found["tags"]["dataset_digest"] == run.data.tags["forge.dataset_digest"]
    assert found["name"].startswith("preprocess · ")
    assert "accepted" in said
    # By the variable, for `mlflow run`; a table is said like anything else.
    pruned, said = outcome_of("prune_checkpoints", "--config", str(tiny_config), FORGE_JSON="1")
    assert (pruned["step"], pruned["bytes_to_free"]) == ("prune_checkpoints", 0)


def test_bad_input_is_in_the_object_and_on_stderr(store: str, tiny_config: Path) -> None:
    given = ("--config", str(tiny_config), "--json")
    found, said = outcome_of("evaluate", *given, "--model", "models:/nothere/1")
    assert found["exit_code"] == 2
    assert found["error"] in said
    assert found["status"] == "FAILED"
    found, _ = outcome_of("evaluate", *given, "--overrides", "qlora.rank=8")
    assert found["exit_code"] == 2
    assert "training.qlora.rank" in found["error"]
    assert "run_id" not in found


def test_what_child_processes_print_is_kept_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with as_json(True) as print_json:
        assert is_wanted()
        print("said")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
        add(figure=float("nan"), path=Path("a"))
    print_json(0, None)
    assert not is_wanted()
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"exit_code": 0, "error": None, "figure": None, "path": "a"}
    assert "by a child" in shown.err


def test_without_the_flag_nothing_changes(capfd: pytest.CaptureFixture[str]) -> None:
    with as_json(False) as print_json:
        print("said")
    print_json(0, None)
    assert capfd.readouterr().out == "said\n"
