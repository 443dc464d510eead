"""finetune on two machines with addresses of their own, one of which is lost and brought back."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.two_machines import Machine, two_machines
from tests.support.processes import wait_for
from tests.support.project import ROOT
from tests.support.rank_runs import OVERRIDES, adapter, losses, newest_run

PORT = 29400


def start(machine: Machine, host: Machine, config: Path, folder: Path, *, store: str) -> Any:
    """Start the step on one machine, as the README says."""
    dotted = OVERRIDES | {"mlflow.system_metrics_seconds": "1"}
    home = folder / machine.name
    home.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-id", folder.name),
        *("--rdzv-endpoint", f"{host.address}:{PORT}", "--local-addr", machine.address),
        *("-m", "steps.finetune", "--config", str(config)),
        *("--overrides", " ".join(f"training.{key}={value}" for key, value in dotted.items())),
    ]
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": store,
        # Nothing that one machine keeps is seen by the other.
        "FORGE_CACHE": str(home / "cache"),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    return machine.start(command, home, environment, home / "output.txt")


@pytest.fixture
def machines() -> Any:
    """Two machines."""
    with two_machines() as both:
        yield both


@pytest.mark.slow
def test_a_machine_that_is_lost_and_brought_back_changes_nothing(
    store: str, tiny_config: Path, tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    from steps.preprocess import main

    result = CliRunner().invoke(main, ["--config", str(tiny_config)])
    assert result.exit_code == 0, result.output
    first, second = machines

    def launch() -> list[Any]:
        return [start(m, first, tiny_config, tmp_path, store=store) for m in machines]

    both = launch()
    assert [one.wait(timeout=200) for one in both] == [0, 0], said(tmp_path)
    measured = newest_run().data.metrics
    for machine in machines:
        assert f"system/{machine.name}/cpu_utilization_percentage" in measured
    untouched = newest_run()
    expected, whole = losses(untouched), adapter(untouched, tmp_path / "a")
    assert untouched.data.tags["forge.machines"] == "2"

    both = launch()
    wait_for(lambda: newest_run().info.run_id != untouched.info.run_id)
    wait_for(lambda: any(step > 45 for step, _ in losses(newest_run())))
    second.kill()
    both[1].wait(timeout=30)
    time.sleep(5)
    assert both[0].poll() is None, said(tmp_path)
    back = start(second, first, tiny_config, tmp_path, store=store)
    assert back.wait(timeout=200) == 0, said(tmp_path)
    assert both[0].wait(timeout=60) == 0, said(tmp_path)

    run = newest_run()
    assert run.info.status == "FINISHED"
    assert losses(run) == expected
    resumed = adapter(run, tmp_path / "b")
    assert all((resumed[name] == whole[name]).all() for name in whole)
    wait_for(lambda: not first.processes() and not second.processes(), 30)


def said(folder: Path) -> str:
    """What both machines have on their terminals."""
    return "\n".join(file.read_text()[-4000:] for file in folder.glob("forge-*/output.txt"))
