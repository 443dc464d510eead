"""evaluate on several processes: the figures of one, to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from click.testing import CliRunner
from pandas.testing import assert_frame_equal

from tests.support.project import ROOT

# Several batches of papers and of sentences.
OVERRIDES = " ".join(
    f"training.evaluation.{key}"
    for key in (
        "batch_tokens=256",
        "generation.prompts=2",
        "generation.max_new_tokens=8",
        "cloze_items=20",
    )
)


def evaluations() -> list[Any]:
    """The runs of the evaluate step, the oldest first."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(
        client.search_runs(
            [experiment.experiment_id],
            "tags.`forge.step` = 'evaluate'",
            order_by=["attributes.start_time"],
        )
    )


def frames_of(run: Any, folder: Path) -> dict[str, pd.DataFrame]:
    """What an evaluation has left, paper by paper and prompt by prompt."""
    names = ("per_paper.parquet", "general.parquet", "generations.parquet")
    return {
        name: pd.read_parquet(
            mlflow.artifacts.download_artifacts(
                run_id=run.info.run_id, artifact_path=name, dst_path=str(folder / run.info.run_id)
            )
        )
        for name in names
    }


def test_two_processes_measure_what_one_does_and_one_of_them_writes(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    from steps.preprocess import main as preprocess

    result = CliRunner().invoke(preprocess, ["--config", str(tiny_config)])
    assert result.exit_code == 0, result.output
    command = [sys.executable, "-m", "steps.evaluate", "--model", "base", "--overrides", OVERRIDES]
    command += ["--config", str(tiny_config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [*command, "--num-processes", processes],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    alone, shared = evaluations()
    assert (alone.info.status, shared.info.status) == ("FINISHED", "FINISHED")
    expected, made = frames_of(alone, tmp_path), frames_of(shared, tmp_path)
    for name, frame in expected.items():
        assert_frame_equal(made[name], frame, check_exact=True)
    assert shared.data.metrics == alone.data.metrics
    assert "2 processes" in said[1] and "2 processes" not in said[0]
    # Each figure is logged once, and told once.
    history = mlflow.MlflowClient().get_metric_history(shared.info.run_id, "test/bits_per_byte")
    assert len(history) == 1
    assert said[1].count("bits per byte: ") == said[0].count("bits per byte: ")
    assert json.loads(shared.data.tags["forge.results_sha256"])
