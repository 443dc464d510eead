"""The step as its user meets it: where papers come from, and what bad input looks like."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click.testing
import mlflow
import pytest
import zstandard

from steps.errors import UserError, writing_to
from steps.preprocess import main
from steps.tracking.inputs import find_papers, input_digests, with_local_files
from tests.support.project import ROOT

DATA = "training.scientific_data"
PAPERS: list[dict[str, Any]] = json.loads(
    (ROOT / "data/high_quality_papers_demo.json").read_text(encoding="utf-8")
)["papers"][:24]


def as_lines(papers: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(paper) for paper in papers).encode()


@pytest.fixture(autouse=True)
def forget_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in this process finds the experiment of the test before in the environment."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the step's scratch files, empty before and after."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def preprocess(papers: str, *overrides: str) -> click.testing.Result:
    """Run the click program, as a step of its own."""
    given = " ".join((f"{DATA}.num_workers=1", *overrides))
    return click.testing.CliRunner().invoke(main, ["--papers", papers, "--overrides", given])


def newest_run() -> Any:
    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, "tags.`forge.step` = 'preprocess'", max_results=1)[0]


def digest_of(papers: str, *overrides: str) -> str:
    result = preprocess(papers, *overrides)
    assert result.exit_code == 0, result.output
    run = newest_run()
    assert run.info.status == "FINISHED"
    return str(run.data.tags["forge.dataset_digest"])


def assert_one_clear_line(result: click.testing.Result, *expected: str) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    bar = re.compile(r"papers: |(?:read|deduplicate|split|write): ")
    lines = [line for line in re.split(r"[\r\n]+", result.stderr) if line and not bar.match(line)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for words in expected:
        assert words in lines[0]
    return lines[0]


# --- where papers come from --------------------------------------------------------------------


def test_every_form_and_place_of_the_papers_gives_the_same_dataset(
    store: str, tmp_path: Path, temporary: Path
) -> None:
    (tmp_path / "list.json").write_text(json.dumps(PAPERS))
    (tmp_path / "wrapper.json.gz").write_bytes(
        gzip.compress(json.dumps({"metadata": {}, "papers": PAPERS}).encode())
    )
    (tmp_path / "lines.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor().compress(as_lines(PAPERS))
    )
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "b.jsonl").write_bytes(as_lines(PAPERS[10:]))
    (parts / "a.json").write_text(json.dumps({"papers": PAPERS[:10]}))
    client = mlflow.MlflowClient()
    with mlflow.start_run() as holder:
        mlflow.log_artifacts(str(parts), "papers")
        mlflow.set_tag("mlflow.runName", "holder")
    stored = client.get_run(holder.info.run_id).info.artifact_uri
    places = [
        "list.json",
        str(tmp_path / "wrapper.json.gz"),
        "lines.jsonl.zst",
        "parts",
        "parts/*",
        f"runs:/{holder.info.run_id}/papers",
        f"file://{stored}/papers",
    ]
    assert len({digest_of(place) for place in places}) == 1
    assert list(temporary.iterdir()) == []
    logged = newest_run()
    assert logged.data.params["scientific_data.data_file"] == places[-1]
    assert (
        logged.inputs.dataset_inputs[0].dataset.digest in logged.data.tags["forge.dataset_digest"]
    )


def test_the_flattened_form_is_accepted_whole(store: str, tmp_path: Path) -> None:
    flat = [
        {
            "text": paper["abstract"],
            "benchmarks": ["a"],
            **{k: paper[k] for k in ("pmid", "title", "score", "tier")},
        }
        for paper in PAPERS
    ]
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    digest_of("flat.json")
    assert newest_run().data.metrics["papers/accepted"] == len(PAPERS)


def test_a_relative_pattern_is_looked_up_in_the_project_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ROOT / "data/high_quality_papers_demo.json"
    assert find_papers("data/high_quality_papers_demo.json", tmp_path) == [wanted]
    assert find_papers("data/high_quality_papers_*.json", tmp_path) == [wanted]


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """A real server that keeps the runs and hands out the artifacts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    arguments = f"--backend-store-uri sqlite:///{folder}/server.db --serve-artifacts --workers 1"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", *arguments.split()),
                *("--port", str(port), "--artifacts-destination", str(folder / "served")),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not answers(f"{uri}/health"):
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


@pytest.mark.slow
def test_papers_come_from_and_datasets_go_to_a_server_that_hands_out_its_artifacts(
    store: str, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "papers.json").write_text(json.dumps(PAPERS))
    wanted = digest_of("papers.json")
    with tracking_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("papers")
        with mlflow.start_run() as holder:
            mlflow.log_artifact("papers.json", "papers")
        assert holder.info.artifact_uri.startswith("mlflow-artifacts:/")
        for place in (f"runs:/{holder.info.run_id}", holder.info.artifact_uri):
            assert digest_of(f"{place}/papers") == wanted
        made = newest_run()
        again = digest_of(
            "papers.json",
            f"{DATA}.split.previous_manifest=runs:/{made.info.run_id}/dataset/manifest.json",
        )
        assert again == wanted
        assert_one_clear_line(preprocess(f"runs:/{holder.info.run_id}/no"), "/no'", "downloaded")


# --- further files of the settings ---------------------------------------------------------------


def test_a_changed_further_file_changes_what_the_result_is_found_by(tmp_path: Path) -> None:
    from steps.config.paper_sections import ScientificData, Split

    papers, texts = tmp_path / "papers.json", tmp_path / "texts.txt"
    papers.write_text("[]")
    settings = ScientificData(split=Split(decontaminate_against=str(texts)))
    digests = []
    for content in ("one", "another", "one"):
        texts.write_text(content)
        digests.append(input_digests([papers], with_local_files(settings, tmp_path)))
    assert digests[0] == digests[2] != digests[1]
    assert digests[0]["papers"] == digests[1]["papers"]


# --- bad input -----------------------------------------------------------------------------------


def write(name: str, content: bytes) -> Callable[[], str]:
    def make() -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
        return name

    return make


def pipe() -> str:
    os.mkfifo("p.json")
    return "p.json"


def pipe_in_folder() -> str:
    write("folder/a.json", as_lines(PAPERS))()
    os.mkfifo("folder/b.json")
    return "folder"


def broken_link_beside_papers() -> str:
    write("folder/a.json", as_lines(PAPERS))()
    Path("folder/b.json").symlink_to("gone.json")
    return "folder/*.json"


def unreadable() -> str:
    Path("p.json").symlink_to("/proc/self/mem")
    return "p.json"


BAD_PAPERS: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "truncated": (write("p.json", json.dumps(PAPERS).encode()[:-50]), ("p.json", "record 23")),
    "UTF-16": (write("p.json", json.dumps(PAPERS).encode("utf-16")), ("p.json", "iconv")),
    "empty": (write("p.json", b""), ("p.json", "is empty")),
    "folder without papers": (lambda: (write("f/x.txt", b"")(), "f")[1], ("'f'", "no papers")),
    "folder named as a file": (
        lambda: (write("x.json/a.txt", b"")(), "x.json")[1],
        ("'x.json'", "holds no papers"),
    ),
    "pipe": (pipe, ("'p.json'", "no regular file")),
    "pipe in a folder": (pipe_in_folder, ("'folder/b.json'", "no regular file")),
    "device": (lambda: "/dev/zero", ("/dev/zero", "no regular file")),
    "broken link": (broken_link_beside_papers, ("'folder/b.json'", "broken link", "gone.json")),
    "unreadable": (unreadable, ("'p.json'", "cannot be read")),
    "name too long": (lambda: "x" * 300, ("xxx'", "File name too long")),
    "line break in the name": (lambda: "a\nb.json", (r"a\nb.json", "does not exist")),
    "no usable paper": (
        write("p.json", b'[{"pmid": "1"}, 4]'),
        ("no_text 1 (record 0 of p.json: ", "wrong_type 1 (record 1 of p.json"),
    ),
    "run that is not there": (lambda: f"runs:/{'0' * 32}/papers", ("cannot be downloaded",)),
    "no path in the run": (lambda: "runs:/", ("cannot be downloaded",)),
    "page of the web": (lambda: "https://example.org/p.json", ("is no artifact", "download it")),
    "unknown scheme": (lambda: "gopher://papers", ("cannot be downloaded",)),
}


@pytest.mark.parametrize("case", BAD_PAPERS)
def test_bad_papers_give_one_line_and_a_failed_run(store: str, temporary: Path, case: str) -> None:
    make, expected = BAD_PAPERS[case]
    line = assert_one_clear_line(preprocess(make()), *expected)
    run = newest_run()
    assert run.info.status == "FAILED"
    assert line == f"error: {run.data.tags['forge.error']}"
    assert list(temporary.iterdir()) == [], "no scratch file is left"


MANIFEST = '{"splits": {"train": %s, "validation": {"paper_ids": []}, "test": {"paper_ids": []}}}'
BAD_FURTHER_FILES: list[tuple[str, bytes | None, str]] = [
    ("previous_manifest", None, "does not exist"),
    ("previous_manifest", b'{"splits": ', "no dataset manifest"),
    ("previous_manifest", as_lines(PAPERS), "no dataset manifest"),
    ("previous_manifest", (MANIFEST % '{"paper_ids": "123"}').encode(), "no dataset manifest"),
    ("previous_manifest", b"[" * 100_000, "no dataset manifest"),
    ("decontaminate_against", None, "does not exist"),
    ("decontaminate_against", b"\x89PNG\r\n\x1a\n", "expected a list"),
    ("decontaminate_against", b"[]", "holds no text"),
]


@pytest.mark.parametrize(("key", "content", "expected"), BAD_FURTHER_FILES)
def test_a_bad_further_file_is_named_with_its_key(
    store: str, tmp_path: Path, temporary: Path, key: str, content: bytes | None, expected: str
) -> None:
    write("papers.json", as_lines(PAPERS))()
    if content is not None:
        write("further.json", content)()
    result = preprocess("papers.json", f"{DATA}.split.{key}=further.json")
    assert_one_clear_line(result, f"scientific_data.split.{key}", "further.json", expected)
    assert newest_run().info.status == "FAILED"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("filters.tiers=[platinum]", "filters.tiers.0 is \"platinum\", expected 'gold_standard'"),
        ("filters.min_score=.nan", "filters.min_score is NaN, expected a finite number"),
        ("filters.min_score=nan", 'filters.min_score is "nan", expected'),
        ("filters.min_score=.inf", "filters.min_score is Infinity, expected a finite number"),
        ("deduplication.threshold=.nan", "deduplication.threshold is NaN"),
        ("deduplication.num_permutations=100000000", "num_permutations is 100000000"),
        ("sections=[abstrakt]", "sections.0 is \"abstrakt\", expected 'title', 'abstract'"),
    ],
)
def test_a_setting_that_lets_all_or_nothing_through_is_refused(
    override: str, expected: str
) -> None:
    assert_one_clear_line(preprocess("papers.json", f"{DATA}.{override}"), f"{DATA}.", expected)


# --- disks ---------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_other_trouble_stays_what_it_is(tmp_path: Path) -> None:
    expected = r"^the report cannot be written \(No space left on device\): free it$"
    with pytest.raises(UserError, match=expected), writing_to("the report", "free it"):
        Path("/dev/full").write_text("x")
    with pytest.raises(FileNotFoundError), writing_to("the report", "free it"):
        (tmp_path / "gone" / "report.html").write_text("x")


@pytest.mark.parametrize(
    ("language", "bytes_allowed"), [("en", 10_000), ("null", 10_000), ("null", 200_000)]
)
def test_a_disk_that_fills_up_midway_leaves_nothing_behind(
    tmp_path: Path, language: str, bytes_allowed: int
) -> None:
    papers = [p | {"pmid": f"{p['pmid']}-{n}"} for n in range(10) for p in PAPERS]
    (tmp_path / "papers.json").write_text(json.dumps(papers))
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED_PROGRAM, "papers.json", language, str(bytes_allowed)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout == (
        "output folder 'out' or the folder of temporary files cannot be written (File too "
        "large): free some space, or set TMPDIR to a folder on another disk\n"
    ), finished.stderr
    assert finished.stderr == ""
    assert list((tmp_path / "out").rglob("*")) == []


# The operating system refuses what goes beyond the limit, as it does on a full disk.
LIMITED_PROGRAM = """
import resource, sys
from pathlib import Path
from steps.config.paper_sections import Filters, ScientificData
from steps.errors import UserError
from steps.papers.pipeline import prepare_dataset

papers, language, limit = sys.argv[1:]
filters = Filters(language=None if language == "null" else language)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    prepare_dataset([Path(papers)], ScientificData(filters=filters, num_workers=1), Path("out"))
except UserError as error:
    print(error)
"""
