"""Which engine it is, is said in one line where Ray has a say; what cannot be is refused in one."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.extras import MODULES
from steps.papers.engines import choice
from steps.papers.engines.choice import Choice, choose_engine
from tests.support.extras import extra_folder
from tests.support.made_up_papers import made_up_papers
from tests.support.project import ROOT

Wanted = Literal["auto", "local", "ray"]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Whether Ray is installed is for each test to say.
    monkeypatch.setitem(MODULES, "ray", "no_such_module_is_installed")


def chosen(folder: Path, engine: Wanted) -> Choice:
    papers = folder / "papers.json"
    papers.write_text("[]" * 600_000)
    return choose_engine(ScientificData(engine=engine), [papers])


def test_without_a_cluster_nothing_is_said_and_this_machine_does_it(tmp_path: Path) -> None:
    assert chosen(tmp_path, "auto") == Choice(False, "")
    assert chosen(tmp_path, "local") == Choice(False, "")


def test_ray_of_our_own_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "ray", "json")
    monkeypatch.setattr(choice, "BYTES_WORTH_A_CLUSTER", 1)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert chosen(tmp_path, "auto") == Choice(False, "")
    assert chosen(tmp_path, "ray") == Choice(True, "engine: ray, on this machine")


def test_auto_takes_a_cluster_that_is_there_for_papers_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = chosen(tmp_path, "auto")
    assert (found.on_ray, "ray is not installed" in found.why) == (False, True)
    monkeypatch.setitem(MODULES, "ray", "json")
    found = chosen(tmp_path, "auto")
    assert not found.on_ray
    assert found.why.startswith("engine: local, for 1 MB of papers; scientific_data.engine=ray")
    monkeypatch.setattr(choice, "BYTES_WORTH_A_CLUSTER", 1_000_000)
    assert chosen(tmp_path, "auto") == Choice(
        True, "engine: ray, the cluster at 10.0.0.1:6379, for 1 MB of papers"
    )
    assert not chosen(tmp_path, "local").on_ray


def test_ray_where_it_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine: ray needs .* not installed: uv pip install"):
        chosen(tmp_path, "ray")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:{closed}", "nobody answers there"),
        ("no.such.host.invalid:6379", "nobody answers there"),
        ("ray://10.0.0.1:10001", "expected HOST:PORT"),
        ("10.0.0.1", "expected HOST:PORT"),
        ("10.0.0.1:99999", "nobody answers there"),
        ("127.0.0.1:{strange}", "what answers there is no Ray"),
    ],
)
def test_an_address_that_is_no_cluster_is_one_line(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, expected: str
) -> None:
    from steps.preprocess import main

    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    strange = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=strange.serve_forever, daemon=True).start()
    given = address.format(closed=closed, strange=strange.server_port)
    monkeypatch.setitem(MODULES, "ray", "json")
    monkeypatch.setenv("RAY_ADDRESS", given)
    (tmp_path / "papers.json").write_text(json.dumps(made_up_papers(20)))
    result = CliRunner().invoke(
        main,
        [
            *("--papers", str(tmp_path / "papers.json")),
            *("--overrides", "training.scientific_data.engine=ray"),
        ],
    )
    strange.shutdown()
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line and given in line
    assert "Traceback" not in result.output


def test_what_this_machine_prepares_it_prepares_without_ray(tmp_path: Path) -> None:
    papers = tmp_path / "papers.json"
    papers.write_text(json.dumps(made_up_papers(20)))
    program = (
        "import sys; from pathlib import Path; "
        "from steps.config.paper_sections import ScientificData; "
        "from steps.papers.engines.choice import choose_engine; "
        "from steps.papers.pipeline import prepare_dataset; "
        "files = [Path(sys.argv[1])]; settings = ScientificData(num_workers=1)\n"
        "with choose_engine(settings, files).opened(settings) as engine:\n"
        "    prepare_dataset(files, settings, Path(sys.argv[2]), engine=engine)\n"
        "assert 'ray' not in sys.modules"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{extra_folder('ray')}", "PATH": "/usr/bin:/bin"}
    subprocess.run(
        [sys.executable, "-c", program, str(papers), str(tmp_path / "out")],
        env=environment,
        check=True,
    )
