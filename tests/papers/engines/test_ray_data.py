"""On Ray the same papers become the same dataset, to the byte, whatever happens to a machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.ray_nodes import two_ray_nodes
from steps.papers.dataset import digest_of_dataset
from tests.support.extras import extra_folder
from tests.support.made_up_papers import made_up_abstract, made_up_papers
from tests.support.papers_in_formats import JATS_ARTICLE, PUBMED_RECORD
from tests.support.processes import wait_for
from tests.support.project import ROOT
from tests.support.ray_program import prepare

CASES = ("duplicates", "formats", "broken", "not_one", "settings")


def path_with_ray() -> str:
    return os.pathsep.join([str(ROOT), str(extra_folder("ray"))])


def with_duplicates(count: int) -> list[Any]:
    """Papers, some of them again: by identifier, word by word, or nearly so; and bad ones."""
    good = made_up_papers(count)
    again: list[Any] = []
    for n, paper in enumerate(good):
        if n % 10 == 0:
            text = f"{paper['abstract']} Indeed it does."
            again.append(paper | {"pmid": f"7{n:05}", "abstract": text, "score": 1.0 * (n % 200)})
        if n % 15 == 1:
            again.append(paper | {"pmid": f"8{n:05}"})
        if n % 15 == 2:
            again.append(paper | {"score": 500.0, "abstract": made_up_papers(1, n)[0]["abstract"]})
        if n % 15 == 3:
            # One title, and the abstract cut in half: a preprint and its published version.
            half = paper["abstract"][: len(paper["abstract"]) // 2]
            again.append(paper | {"pmid": f"9{n:05}", "abstract": half})
    bad = [{"pmid": "1", "title": "x"}, {"title": "No identifier"}, "no object", {"pmid": 2}, {}]
    return [*good, *again, *bad]


def write_cases(folder: Path) -> list[Path]:
    folder.mkdir()
    papers = with_duplicates(400)
    (folder / "duplicates.json").write_text(json.dumps({"papers": papers}))
    (folder / "cut_off.json").write_text(json.dumps(papers)[:-40])
    (folder / "mixed").mkdir()
    mixed = {
        "a.json": json.dumps(made_up_papers(150)),
        "b.jsonl": "\n".join(json.dumps(paper) for paper in made_up_papers(150, 1)[:90]),
        "c.xml": f"<PubmedArticleSet>{PUBMED_RECORD}</PubmedArticleSet>",
        "d.nxml": JATS_ARTICLE,
        "e.csv": f"PMID,Article Title,Abstract\n77,Of genes,{made_up_abstract(Random(9))}\n",
        "f.json": json.dumps(made_up_papers(20, 2))[:-9],
    }
    for name, text in mixed.items():
        (folder / "mixed" / name).write_text(text)
    (folder / "items.jsonl").write_text(
        "\n".join(
            json.dumps(
                {
                    "question": f"What of {paper['title']}?",
                    "answer": "It does.",
                    "pmid": paper["pmid"],
                }
            )
            for paper in papers[:40]
        )
    )
    (folder / "retracted.txt").write_text("1005\n1006\n")
    one: dict[str, Any] = {"inputs": [str(folder / "duplicates.json")], "settings": {}}
    cases = {
        "duplicates": one,
        "formats": one | {"inputs": sorted(map(str, (folder / "mixed").iterdir()))},
        "broken": one | {"inputs": [str(folder / "cut_off.json")]},
        "not_one": one | {"settings": {"filters": {"min_score": 1000}}},
        "settings": one
        | {
            "settings": {
                "retracted": str(folder / "retracted.txt"),
                "deduplication": {"enabled": False, "num_permutations": 50, "threshold": 0.5},
                "split": {"salt": "another"},
            },
            "instructions": [str(folder / "items.jsonl")],
        },
    }
    files = []
    for name in CASES:
        files.append(folder / f"{name}.case")
        files[-1].write_text(json.dumps(cases[name]))
    return files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case prepared on Ray and by this process, in `ray/` and `local/`."""
    folder = tmp_path_factory.mktemp("engines")
    cases = write_cases(folder / "cases")
    environment = os.environ | {"PYTHONPATH": path_with_ray()}
    environment.pop("RAY_ADDRESS", None)
    program = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_program", str(folder / "ray"), *map(str, cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    (folder / "said.txt").write_text(program.stdout)
    (folder / "warned.txt").write_text(program.stderr)
    for case in cases:
        prepare(case, folder / "local" / case.stem, None)
    return folder


def content(folder: Path) -> dict[str, Any]:
    """What a run left: the dataset by its manifest and digest, all else byte by byte."""
    found: dict[str, Any] = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()
    }
    if (folder / "dataset").is_dir():
        found["digest"] = digest_of_dataset(folder / "dataset")
        found["manifest"] = (folder / "dataset" / "manifest.json").read_bytes()
        found["ledger"] = (folder / "dataset" / "licences.csv").read_bytes()
    return found


@pytest.mark.parametrize("case", CASES)
def test_ray_leaves_what_this_machine_leaves_to_the_byte(prepared: Path, case: str) -> None:
    assert content(prepared / "ray" / case) == content(prepared / "local" / case)


def test_what_was_compared_has_all_that_can_happen_to_a_record(prepared: Path) -> None:
    manifest = json.loads((prepared / "ray/duplicates/dataset/manifest.json").read_text())
    assert set(manifest["funnel"]["rejected"]) == {
        *("duplicate_identifier", "exact_duplicate", "near_duplicate"),
        *("too_few_words", "no_identifier", "wrong_type", "no_text"),
    }
    lines = (prepared / "ray/formats/rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["reason"] for line in lines} >= {"unreadable_file"}
    assert "record" in (prepared / "ray/broken/refused.txt").read_text()
    assert "score_too_low" in (prepared / "ray/not_one/refused.txt").read_text()
    assert (prepared / "ray/settings/dataset/instructions").is_dir()


def test_the_terminal_has_the_engine_and_the_progress_and_nothing_of_ray(prepared: Path) -> None:
    said = (prepared / "said.txt").read_text().splitlines()
    assert said[0] == "engine: ray, on this machine (1 node, 2 cores)"
    reads = [int(line.split()[1]) for line in said if line.startswith("read ")]
    assert len(reads) > len(CASES), "each case is read in chunks"
    warned = (prepared / "warned.txt").read_text().splitlines()
    assert [line for line in warned if not line.startswith("starting Ray: ")] == []


@pytest.mark.slow
def test_a_machine_that_is_killed_costs_its_blocks_and_changes_nothing(tmp_path: Path) -> None:
    case = tmp_path / "one.case"
    papers = tmp_path / "papers.jsonl"
    papers.write_text("\n".join(json.dumps(paper) for paper in with_duplicates(8000)))
    case.write_text(json.dumps({"inputs": [str(papers)], "settings": {}}))
    prepare(case, tmp_path / "local", None)
    program = [sys.executable, "-m", "tests.support.ray_program", str(tmp_path / "ray"), str(case)]
    said = tmp_path / "said.txt"
    with two_ray_nodes(tmp_path, {"PYTHONPATH": path_with_ray()}) as nodes:
        driver = nodes.start(program, said)
        wait_for(lambda: said.exists() and said.read_text().count("read ") >= 3, 200)
        assert len(nodes.second.processes()) > 3
        nodes.second.kill()
        assert driver.poll() is None
        assert driver.wait(timeout=400) == 0, said.read_text()
    assert "note: 1 of 2 nodes of the cluster went away" in said.read_text()
    assert content(tmp_path / "ray" / "one") == content(tmp_path / "local")
