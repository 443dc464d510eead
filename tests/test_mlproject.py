"""The frame: entry points, their commands and options, exit codes, signals."""

import os
import re
import subprocess
import sys

import click
import pytest
import yaml

from tests.support.project import ROOT

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
STEPS = (
    "main", "preprocess", "import_papers", "finetune", "evaluate", "ab_compare",
    "prune_checkpoints", "plan", "status", "generate", "compare_runs", "release", "sweep",
)  # fmt: skip


def command_of(step: str) -> click.Command:
    """The click program of a step."""
    import importlib

    command = importlib.import_module(f"steps.{step}").main
    assert isinstance(command, click.Command)
    return command


def run_step(step: str, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run a step as its user does, from the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", f"steps.{step}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **settings,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("step", STEPS)
def test_every_entry_point_names_only_options_that_its_program_has(step: str) -> None:
    entry = PROJECT["entry_points"][step]
    used = dict(re.findall(r"(--[a-z-]+) \{(\w+)\}", entry["command"]))
    assert sorted(used.values()) == sorted(entry["parameters"])
    known = {option for p in command_of(step).params for option in p.opts}
    assert set(used) <= known


@pytest.mark.parametrize("step", STEPS)
def test_defaults_of_the_entry_point_and_of_the_program_agree(step: str) -> None:
    entry = PROJECT["entry_points"][step]
    for option, name in re.findall(r"(--[a-z-]+) \{(\w+)\}", entry["command"]):
        parameter = next(p for p in command_of(step).params if option in p.opts)
        stated = entry["parameters"][name]["default"]
        assert str(parameter.default).lower() == str(stated).lower()


def test_no_placeholder_stands_in_quotes() -> None:
    for entry in PROJECT["entry_points"].values():
        assert not re.search(r"""['"]\{\w+\}['"]""", entry["command"])


@pytest.mark.parametrize("step", STEPS)
def test_help_and_a_bad_option_answer_without_the_heavy_libraries(step: str) -> None:
    script = (
        "import sys, runpy; sys.argv = ['steps', *sys.argv[1:]]\n"
        f"try: runpy.run_module('steps.{step}', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'mlflow', 'transformers', 'pandas', 'datasets'} & set(sys.modules)\n"
        "print('CODE', code, 'HEAVY', sorted(heavy))"
    )
    for argument, code in (("--help", 0), ("--no-such-option", 2)):
        finished = subprocess.run(
            [sys.executable, "-c", script, argument],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert finished.stdout.splitlines()[-1] == f"CODE {code} HEAVY []"


@pytest.mark.parametrize("step", STEPS)
def test_a_bad_configuration_is_one_line_and_exit_code_2(step: str) -> None:
    finished = run_step(step, "--overrides", "training.qlora.rank=8")
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "error: overrides: unknown key training.qlora.rank; did you mean training.qlora.r?"
    ]


def test_an_unreachable_server_is_one_line_and_exit_code_2() -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    finished = run_step("preprocess", "--config", "configs/demo.yaml", env=environment)
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "the tracking store http://127.0.0.1:9 cannot be used" in finished.stderr


def test_requirements_are_pinned_exactly_and_the_lock_agrees_with_them() -> None:
    content = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    assert pip[0] == "-c requirements.lock"
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {line.partition(" ;")[0] for line in lines}
    for requirement in pip[1:]:
        # A condition may follow; the lock words it in its own way.
        pin = requirement.partition(";")[0]
        assert re.fullmatch(r"[A-Za-z0-9.-]+==[^ ]+", pin)
        assert pin in locked


def test_mlflow_reads_the_environment_with_its_lock() -> None:
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.requirements_utils import _parse_requirements

    environment = _PythonEnv.from_conda_yaml(str(ROOT / "conda.yaml"))
    assert environment.python == "3.11"
    parsed = list(
        _parse_requirements(environment.dependencies, is_constraint=False, base_dir=str(ROOT))
    )
    assert any(r.is_constraint for r in parsed)
    assert "torch==2.13.0" in {r.req_str for r in parsed if not r.is_constraint}
