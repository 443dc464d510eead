"""A killed run is given to one launch, whatever stands between the launches and the store."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from benchmarks.prune import tracking_server
from steps.tracking.heartbeat import sign_of_this_process
from tests.support.project import ROOT

LAUNCH = """
import sys
from pathlib import Path
import mlflow
from steps.tracking.checkpoints.claims import claim
from steps.tracking.runs import StepRun
from steps.tracking.spool import Spool
uri, experiment, mine, *sources = sys.argv[1:]
client = mlflow.MlflowClient(uri)
run = StepRun(mine, experiment, client, Path("."), Spool(Path("spool") / mine, mine), 1.0)
for source in [client.get_run(source) for source in sources]:
    print("ready", flush=True)
    sys.stdin.readline()
    print(claim(run, source) or mine, flush=True)
"""


@pytest.mark.slow
def test_of_several_processes_one_gets_each_run_and_all_agree_who(tmp_path: Path) -> None:
    with tracking_server(tmp_path) as uri:
        client = mlflow.MlflowClient(uri)
        experiment = client.create_experiment("claims")
        killed = [client.create_run(experiment).info.run_id for _ in range(30)]
        tags = {"forge.heartbeat": sign_of_this_process()}
        winners: set[str] = set()
        launched = [client.create_run(experiment, tags=tags).info.run_id for _ in range(4)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", LAUNCH, uri, experiment, mine, *killed],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for mine in launched
        ]
        for source in killed:
            assert {read(process) for process in processes} == {"ready"}
            # As much at the same moment as two processes ever are.
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            said = {read(process) for process in processes}
            assert said == {client.get_run(source).data.params["forge.resumed_by"]}
            assert said <= set(launched)
            winners |= said
        assert [process.wait() for process in processes] == [0] * len(processes)
    # Else the others were only ever late, and nothing was contended for.
    assert len(winners) > 1


def read(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
