"""How long planning takes: 1,000 checkpoints of 50 runs on a real tracking server.

    python -m benchmarks.prune
    python -m benchmarks.prune --runs 50 --checkpoints 20 --target-seconds 10

Starts `mlflow server` on SQLite with proxied artifacts, fills it with runs as a training run
would (LoggedModels, metrics, a version that points at a checkpoint), and times
`python -m steps.prune_checkpoints` as its user sees it: imports, listing and table included.
Exits 1 where the plan takes longer than the target or misses a checkpoint.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from steps.checkpoints.format import writing_checkpoint
from steps.config.paths import PROJECT_ROOT
from steps.tracking.checkpoints.uploads import checkpoint_tags

EXPERIMENT = "pruned"
METRIC = "validation/bits_per_byte"


@click.command()
@click.option("--runs", default=50, show_default=True)
@click.option("--checkpoints", default=20, show_default=True, help="Of each run.")
@click.option("--rounds", default=3, show_default=True, help="How often to plan.")
@click.option("--target-seconds", default=10.0, show_default=True, help="For every round.")
def main(runs: int, checkpoints: int, rounds: int, target_seconds: float) -> None:
    """Build the store, plan, and print the seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tracking_server(folder) as uri:
            started = time.monotonic()
            fill(uri, folder / "artifacts", runs, checkpoints)
            print(
                f"store with {runs * checkpoints} checkpoints: {time.monotonic() - started:.0f} s"
            )
            plans = [timed_plan(uri, folder) for _ in range(rounds)]
    for seconds, plan in plans:
        planned = len(plan["checkpoints"])
        print(f"{planned} checkpoints of {runs} runs planned in {seconds:.1f} s, whole process")
    if any(
        len(plan["checkpoints"]) != runs * checkpoints or seconds > target_seconds
        for seconds, plan in plans
    ):
        sys.exit(1)


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """Run `mlflow server` with its database and artifacts in `folder`; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"{uri}/health")
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fill(uri: str, artifacts: Path, runs: int, checkpoints: int) -> None:
    """Store finetune runs, their checkpoints and one registered version.

    The files are laid where the server keeps them: uploading them is not what is measured.
    """
    import mlflow
    from mlflow.entities import Metric

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    experiment = str(client.create_experiment(EXPERIMENT))
    now = int(time.time() * 1000)
    steps = [50 * number for number in range(1, checkpoints + 1)]

    def one_run(number: int) -> str:
        run = client.create_run(experiment, tags={"forge.step": "finetune"})
        run_id: str = run.info.run_id
        path = run.info.artifact_uri.partition("mlflow-artifacts:/")[2].lstrip("/")
        root = artifacts / path / "checkpoints"
        for step in steps:
            with writing_checkpoint(root, step, {"run_id": run_id}) as folder:
                for name in ("adapter_model.safetensors", "optimizer.pt"):
                    (folder / name).write_bytes(bytes(1_000))
                state = json.dumps({"best_global_step": steps[0]})
                (folder / "trainer_state.json").write_text(state, encoding="utf-8")
            client.create_logged_model(
                experiment_id=experiment,
                name=f"checkpoint-{step}",
                source_run_id=run_id,
                tags=checkpoint_tags(run_id, root / f"checkpoint-{step}"),
            )
        values = [Metric(METRIC, 1.0 + step * number % 97, now, step) for step in steps]
        client.log_batch(run_id, metrics=values)
        # Every fifth was killed: its newest checkpoint is looked at more closely.
        client.set_terminated(run_id, "KILLED" if number % 5 == 0 else "FINISHED")
        return run_id

    with ThreadPoolExecutor(4) as pool:
        run_ids = list(pool.map(one_run, range(runs)))
    client.create_registered_model("registered")
    source = f"{client.get_run(run_ids[0]).info.artifact_uri}/checkpoints/checkpoint-{steps[0]}"
    version = client.create_model_version("registered", source, run_ids[0])
    client.set_registered_model_alias("registered", "champion", version.version)


def timed_plan(uri: str, folder: Path) -> tuple[float, dict[str, Any]]:
    """Run the step once.

    Returns:
        Seconds of the whole process, and its `plan.json`.
    """
    import mlflow

    command = [sys.executable, "-m", "steps.prune_checkpoints"]
    command += ["--overrides", f"training.mlflow.experiment_name={EXPERIMENT}"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "FORGE_CACHE": str(folder / "cache")}
    started = time.monotonic()
    finished = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - started
    assert finished.returncode == 0, finished.stderr
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.search_runs(
        [experiment.experiment_id], "tags.`forge.step` = 'prune_checkpoints'", max_results=1
    )[0]
    file = client.download_artifacts(run.info.run_id, "plan.json", str(folder))
    return seconds, json.loads(Path(file).read_text(encoding="utf-8"))


def _wait_for(address: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{address} did not answer within two minutes")


if __name__ == "__main__":
    main()
