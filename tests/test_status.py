"""The status step on a whole store, on none, and started by `mlflow run`."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result

from steps.config.file import load_config
from steps.status import main
from tests.support.processes import wait_for
from tests.support.project import ROOT
from tests.support.stores import StoredStore


def asked(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result


def as_json(*arguments: str) -> dict[str, Any]:
    """What `--json` prints: one line, and nothing besides."""
    (line,) = asked(*arguments, "--json").stdout.splitlines()
    content = json.loads(line)
    assert isinstance(content, dict)
    return content


def test_a_store_is_told_without_changing_a_byte(there: StoredStore) -> None:
    before = {f: hashlib.sha256(f.read_bytes()).digest() for f in files(there.folder)}
    said = asked("--config", str(there.config)).stdout
    assert "papers train 36, validation 3, test 13" in said
    assert "models:/tiny/1 @champion: bits per byte" in said
    assert "would free" in said
    killed = f"run {there.facts.killed.run} can go on from step {there.facts.killed.checkpoint}"
    assert killed in said
    assert {f: hashlib.sha256(f.read_bytes()).digest() for f in files(there.folder)} == before


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_json_has_the_facts_of_the_store(there: StoredStore) -> None:
    content = as_json("--config", str(there.config))
    assert [one["run_id"] for one in content["datasets"]] == [there.facts.runs["preprocess"]]
    (version,) = content["versions"]
    assert version["aliases"] == ["champion"]
    assert version["figure"]["value"] == pytest.approx(there.facts.bits_per_byte["champion"])
    assert content["base"]["value"] == pytest.approx(there.facts.bits_per_byte["base"])
    assert content["decisions"][0]["outcome"] == "promote"
    assert content["next"]["command"] == content["resumable"][0]["command"]


def test_the_command_for_a_killed_training_restores_its_configuration(there: StoredStore) -> None:
    content = as_json("--config", str(there.config))
    words = shlex.split(content["resumable"][0]["command"])
    given = dict(word.split("=", 1) for word in words if "=" in word)
    assert given["resume"] == there.facts.killed.run
    # It is the one that the configuration names.
    assert "--experiment-name" not in words
    again = load_config(given["config"], given["overrides"]).training
    then = load_config(there.config, there.facts.killed.overrides).training
    for section in ("hyperparameters", "logging", "qlora", "model"):
        assert getattr(again, section) == getattr(then, section)


def test_retracted_papers_of_the_champion_are_named(there: StoredStore, tmp_path: Path) -> None:
    run = there.facts.runs["preprocess"]
    client = mlflow.MlflowClient(there.uri)
    manifest = json.loads(
        Path(
            client.download_artifacts(run, "dataset/manifest.json", str(tmp_path))
        ).read_text(encoding="utf-8")
    )  # fmt: skip
    paper = manifest["splits"]["train"]["paper_ids"][0]
    (tmp_path / "list.txt").write_text(f"{paper}\n", encoding="utf-8")
    named = ("--overrides", f"training.release.retracted={tmp_path / 'list.txt'}")
    said = asked("--config", str(there.config), *named).stdout
    assert f"models:/tiny/1 (champion) was trained on 1 paper ({paper}), retracted by list" in said


def test_nothing_is_made_where_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = asked("--config", "configs/demo.yaml").stdout
    assert "there is none yet" in said
    assert "-e preprocess -P config=configs/demo.yaml" in said
    assert list(tmp_path.iterdir()) == []
    assert as_json()["datasets"] == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be used: it does not answer"),
        ("sqlite:///{folder}/junk.db", "junk.db is not a SQLite database"),
    ],
)
def test_a_store_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, words: str
) -> None:
    (tmp_path / "junk.db").write_text("no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    result = asked("--json", code=2)
    assert words in json.loads(result.stdout)["error"]
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize("overrides", ["", "training.qlora.rank=8"])
def test_mlflow_run_leaves_no_run_of_it(
    store: str, client: mlflow.MlflowClient, overrides: str
) -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"),
            *("-e", "status", "-P", f"overrides={overrides}"),
        ],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == (1 if overrides else 0), finished.stderr
    assert ("there is no dataset" in finished.stdout) == (not overrides)
    # Where the steps' runs land, though `mlflow run` has made its own in "Default".
    assert ("experiment scientificllm-forge" in finished.stdout) == (not overrides)
    assert "must be in the 'active' state" not in finished.stderr
    wait_for(lambda: not client.search_runs(["0"]), 60)
