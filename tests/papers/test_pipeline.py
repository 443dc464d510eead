"""The whole way from files to dataset: nothing lost, nothing leaked, the same every time."""

import gzip
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from steps.config.paper_sections import Deduplication, Filters, Limits, ScientificData, Split
from steps.errors import UserError
from steps.papers import chunks
from steps.papers.dataset import digest_of_dataset
from steps.papers.pipeline import Preparation, prepare_dataset
from tests.support.made_up_papers import made_up_papers


def write_papers(folder: Path, papers: Sequence[Any], name: str = "papers.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "papers": papers}))
    return path


def prepare(
    folder: Path, papers: Sequence[Any], settings: ScientificData | None = None, name: str = "out"
) -> Preparation:
    path = write_papers(folder, papers)
    return prepare_dataset([path], settings or ScientificData(num_workers=1), folder / name)


def with_split(**changes: Any) -> ScientificData:
    return ScientificData(split=Split(**changes), num_workers=1)


def rejected_lines(preparation: Preparation) -> list[dict[str, Any]]:
    lines = (preparation.output / "rejected.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def split_of(preparation: Preparation) -> dict[str, str]:
    splits = preparation.manifest["splits"]
    return {paper: name for name, split in splits.items() for paper in split["paper_ids"]}


def assert_nothing_lost(preparation: Preparation) -> None:
    funnel = preparation.manifest["funnel"]
    assert funnel["accepted"] + sum(funnel["rejected"].values()) == funnel["read"]
    assert Counter(line["reason"] for line in rejected_lines(preparation)) == funnel["rejected"]
    dataset = load_from_disk(str(preparation.output / "dataset"))
    for name, split in preparation.manifest["splits"].items():
        rows = dataset[name]
        assert list(dict.fromkeys(rows["paper_id"])) == split["paper_ids"]
        assert len(rows) == split["sections"]
        assert len(split["paper_ids"]) == split["papers"]
        assert sum(len(text.split()) for text in rows["text"]) == split["words"]
    assert sum(s["papers"] for s in preparation.manifest["splits"].values()) == funnel["accepted"]


def test_every_record_is_accepted_or_rejected_whole_with_a_reason(tmp_path: Path) -> None:
    good = made_up_papers(30)
    twin = good[3] | {"pmid": "77", "title": "Another title of the same paper altogether"}
    bad: list[Any] = [
        {"pmid": "1", "title": "Too short"},
        {"title": "No identifier", "abstract": good[0]["abstract"]},
        {"pmid": "2", "abstract": 5},
        "no object",
        good[4] | {"score": 1.0},
        twin | {"score": 0.5},
    ]
    preparation = prepare(tmp_path, good + bad)
    assert preparation.rejected == {
        "too_few_words": 1,
        "no_identifier": 1,
        "wrong_type": 2,
        "duplicate_identifier": 1,
        "near_duplicate": 1,
    }
    assert_nothing_lost(preparation)
    assert preparation.num_accepted == 30
    by_record = {line["record"]: line for line in rejected_lines(preparation)}
    assert sorted(by_record) == [30, 31, 32, 33, 34, 35]
    for record, line in by_record.items():
        assert line["paper"] == bad[record - 30]
        assert line["file"] == "papers.json"
        assert line["detail"]
    assert by_record[35]["identifier"] == "77"
    assert good[3]["pmid"] in by_record[35]["detail"]


def test_what_is_no_json_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "papers.jsonl"
    lines = [json.dumps(paper).encode() for paper in made_up_papers(12)]
    path.write_bytes(b"\n".join([*lines, b'{"pmid": "1", "title": "caf\xe9', b'{"score": NaN}']))
    preparation = prepare_dataset([path], ScientificData(num_workers=1), tmp_path / "out")
    first, second = rejected_lines(preparation)
    assert (first["reason"], first["paper"]) == ("invalid_utf8", None)
    assert first["paper_text"] == '{"pmid": "1", "title": "caf\\xe9'
    assert second["paper_text"] == '{"score": NaN}'


def test_of_two_records_of_one_paper_the_better_scored_stays(tmp_path: Path) -> None:
    papers = made_up_papers(12)
    papers[5] |= {"doi": "10.1/ABC", "score": 50}
    better = {"doi": "https://doi.org/10.1/abc", "abstract": papers[5]["abstract"], "score": 60}
    preparation = prepare(tmp_path, [*papers, better])
    (line,) = rejected_lines(preparation)
    assert (line["reason"], line["paper"]) == ("duplicate_identifier", papers[5])
    assert "10.1/abc" in split_of(preparation)


def test_of_near_duplicates_the_better_scored_stays(tmp_path: Path) -> None:
    papers = made_up_papers(12)
    copies: list[dict[str, Any]] = [
        papers[0] | {"pmid": "8", "score": 200.0, "abstract": papers[0]["abstract"] + " Indeed."},
        papers[1] | {"pmid": "9", "score": None},
        papers[2] | {"pmid": "7", "score": 200.0},
    ]
    preparation = prepare(tmp_path, papers + copies)
    reasons = {line["identifier"]: line["reason"] for line in rejected_lines(preparation)}
    assert reasons == {
        papers[0]["pmid"]: "near_duplicate",
        "9": "exact_duplicate",
        papers[2]["pmid"]: "exact_duplicate",
    }
    rows = [
        row for split in load_from_disk(str(tmp_path / "out" / "dataset")).values() for row in split
    ]
    clusters = {row["paper_id"]: row["cluster"] for row in rows}
    assert clusters["8"] == min("8", papers[0]["pmid"])


def test_without_deduplication_near_duplicates_share_a_split(tmp_path: Path) -> None:
    papers = made_up_papers(60)
    copies = [paper | {"pmid": f"9{paper['pmid']}"} for paper in papers]
    settings = ScientificData(deduplication=Deduplication(enabled=False), num_workers=1)
    preparation = prepare(tmp_path, papers + copies, settings)
    assert preparation.num_accepted == 120
    splits = split_of(preparation)
    assert all(splits[paper["pmid"]] == splits[f"9{paper['pmid']}"] for paper in papers)
    leakage = preparation.manifest["leakage"]
    assert leakage["before"]["share"] > 0.4, "split one by one, the copies leak"
    assert leakage["after"]["share"] < 0.05


def test_deduplication_takes_the_leakage_away(tmp_path: Path) -> None:
    papers = made_up_papers(60)
    copies = [paper | {"pmid": f"9{paper['pmid']}"} for paper in papers]
    leakage = prepare(tmp_path, papers + copies).manifest["leakage"]
    assert leakage["before"]["share"] > 0.4
    assert leakage["after"]["share"] < 0.05
    assert leakage["after"]["test_ngrams"] > 100


# --- the same every time ---------------------------------------------------------------------


def test_the_digest_is_that_of_the_rows_on_disk(tmp_path: Path) -> None:
    preparation = prepare(tmp_path, made_up_papers(40))
    assert digest_of_dataset(tmp_path / "out" / "dataset") == preparation.digest
    assert preparation.manifest["dataset_digest"] == preparation.digest
    on_disk = json.loads((tmp_path / "out" / "dataset" / "manifest.json").read_text())
    assert on_disk == preparation.manifest


@pytest.mark.parametrize(
    ("workers", "records_a_chunk"),
    [(1, 1), (1, 64), (2, 17), pytest.param(3, 5, marks=pytest.mark.slow)],
)
def test_the_result_does_not_depend_on_processes_chunks_or_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, records_a_chunk: int
) -> None:
    papers = made_up_papers(100)
    papers += [papers[7] | {"pmid": "5"}, {"pmid": "6"}]
    plain = write_papers(tmp_path, papers)
    packed = tmp_path / "papers.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one = prepare_dataset([plain], ScientificData(num_workers=1), tmp_path / "one")
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", records_a_chunk)
    two = prepare_dataset([packed], ScientificData(num_workers=workers), tmp_path / "two")
    assert two.digest == one.digest
    same = ("dataset_digest", "funnel", "splits", "leakage", "configuration", "versions")
    assert {k: two.manifest[k] for k in same} == {k: one.manifest[k] for k in same}
    assert two.contents == one.contents
    reasons = [(line["record"], line["reason"]) for line in rejected_lines(one)]
    assert sorted(reasons) == sorted((r["record"], r["reason"]) for r in rejected_lines(two))


def test_the_splits_do_not_depend_on_the_order_of_the_papers(tmp_path: Path) -> None:
    papers = made_up_papers(60)
    papers += [papers[7] | {"pmid": "5"}]
    shuffled = random.Random(1).sample(papers, len(papers))
    one, two = prepare(tmp_path, papers, name="one"), prepare(tmp_path, shuffled, name="two")
    # The rows stand in the order of the papers, so the digest is another.
    assert one.digest != two.digest
    kept_of_twins = {papers[7]["pmid"], "5"}
    alike = [{k: v for k, v in split_of(p).items() if k not in kept_of_twins} for p in (one, two)]
    assert alike[0] == alike[1]


def test_no_path_of_this_machine_is_recorded(tmp_path: Path) -> None:
    settings = ScientificData(data_file=str(tmp_path / "papers.json"), num_workers=1)
    preparation = prepare(tmp_path, made_up_papers(20), settings)
    assert str(tmp_path) not in json.dumps(preparation.manifest)
    (entry,) = preparation.manifest["inputs"]
    assert entry["name"] == "papers.json"
    assert entry["bytes"] == (tmp_path / "papers.json").stat().st_size


def test_a_changed_setting_changes_the_digest(tmp_path: Path) -> None:
    papers = made_up_papers(40)
    first = prepare(tmp_path, papers, name="first").digest
    assert prepare(tmp_path, papers, name="again").digest == first
    assert prepare(tmp_path, papers, with_split(salt="another"), "salted").digest != first


def test_an_earlier_result_is_replaced_and_a_strange_folder_is_not(tmp_path: Path) -> None:
    prepare(tmp_path, made_up_papers(40))
    second = prepare(tmp_path, made_up_papers(20, seed=1))
    assert digest_of_dataset(tmp_path / "out" / "dataset") == second.digest
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dataset", "rejected.jsonl"]
    strange = tmp_path / "other" / "dataset"
    strange.mkdir(parents=True)
    (strange / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        prepare(tmp_path, made_up_papers(20), name="other")
    assert (strange / "thesis.txt").exists()


def test_several_files_are_one_collection(tmp_path: Path) -> None:
    first = write_papers(tmp_path, made_up_papers(15), "first.json")
    (tmp_path / "more").mkdir()
    second = write_papers(tmp_path / "more", [*made_up_papers(15, seed=1), {}], "first.json")
    preparation = prepare_dataset([first, second], ScientificData(num_workers=1), tmp_path / "out")
    assert preparation.num_accepted == 30
    assert [line["file"] for line in rejected_lines(preparation)] == ["more/first.json"]
    assert [entry["name"].split("/")[-1] for entry in preparation.manifest["inputs"]] == [
        "first.json"
    ] * 2


def test_progress_counts_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 10)
    seen: list[tuple[str, int]] = []
    path = write_papers(tmp_path, made_up_papers(25))
    prepare_dataset(
        [path],
        ScientificData(num_workers=1),
        tmp_path / "out",
        lambda stage, done: seen.append((stage, done)),
    )
    assert [done for stage, done in seen if stage == "read"] == [10, 20, 25]
    assert list(dict.fromkeys(stage for stage, _ in seen)) == [
        "read",
        "deduplicate",
        "split",
        "write",
    ]


# --- later datasets and benchmarks -------------------------------------------------------------


def test_with_an_earlier_manifest_old_papers_keep_their_split(tmp_path: Path) -> None:
    old = made_up_papers(50)
    first = prepare(tmp_path, old, name="first")
    copy = old[0] | {"pmid": "5", "score": 500.0}
    settings = with_split(
        salt="another", previous_manifest=str(tmp_path / "first" / "dataset" / "manifest.json")
    )
    second = prepare(tmp_path, [*old, *made_up_papers(50, seed=1), copy], settings, "second")
    before, after = split_of(first), split_of(second)
    assert {paper: after[paper] for paper in before} == before
    assert second.num_accepted == 100
    assert {r["identifier"]: r["reason"] for r in rejected_lines(second)} == {
        "5": "exact_duplicate"
    }


def test_a_newcomer_that_duplicates_across_splits_is_dropped_and_listed(tmp_path: Path) -> None:
    old = made_up_papers(40)
    first = prepare(tmp_path, old, name="first")
    splits = split_of(first)
    one = next(paper for paper in old if splits[paper["pmid"]] == "train")
    other = next(paper for paper in old if splits[paper["pmid"]] == "test")
    # Its text holds both, and its title is shared by both: it belongs to either.
    title = "One title that both of these papers are given afterwards"
    one["title"] = other["title"] = title
    bridge = {"pmid": "5", "title": title, "abstract": f"{one['abstract']} {other['abstract']}"}
    settings = with_split(previous_manifest=str(tmp_path / "first" / "dataset" / "manifest.json"))
    second = prepare(tmp_path, [*old, bridge], settings, "second")
    assert second.rejected == {"duplicate_across_splits": 1}
    assert split_of(second) == splits


@pytest.mark.parametrize("name", ["benchmark.txt", "benchmark.jsonl", "benchmark.json.gz"])
def test_training_papers_that_hold_benchmark_texts_are_rejected(tmp_path: Path, name: str) -> None:
    papers = made_up_papers(40)
    clean = split_of(prepare(tmp_path, papers, name="clean"))
    taken = [p for p in papers if clean[p["pmid"]] == "train"][:2]
    taken += [p for p in papers if clean[p["pmid"]] == "test"][:1]
    texts = [paper["abstract"] for paper in taken]
    benchmark = tmp_path / name
    if name.endswith(".txt"):
        benchmark.write_text("\n".join(texts))
    elif name.endswith(".jsonl"):
        benchmark.write_text("\n".join(json.dumps({"q": {"text": [t]}, "n": 1}) for t in texts))
    else:
        benchmark.write_bytes(gzip.compress(json.dumps([{"question": t} for t in texts]).encode()))
    preparation = prepare(tmp_path, papers, with_split(decontaminate_against=str(benchmark)))
    assert preparation.rejected == {"benchmark_overlap": 2}
    assert {line["identifier"] for line in rejected_lines(preparation)} == {
        p["pmid"] for p in taken[:2]
    }
    assert name in rejected_lines(preparation)[0]["detail"]
    assert str(tmp_path) not in json.dumps(preparation.manifest)
    assert_nothing_lost(preparation)


# --- what a user can get wrong ---------------------------------------------------------------


def assert_refused(
    folder: Path, inputs: list[Path], settings: ScientificData, *expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        prepare_dataset(inputs, settings, folder / "out")
    message = str(caught.value)
    assert "\n" not in message
    for words in expected:
        assert words in message
    left = folder / "out"
    names = {path.name for path in left.iterdir()} if left.exists() else set()
    assert names <= {"rejected.jsonl"}, "nothing half-made stays behind"


def test_trouble_late_in_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "papers.json"
    path.write_text(json.dumps(made_up_papers(600))[:-40])
    assert_refused(tmp_path, [path], ScientificData(num_workers=1), "papers.json", "record 599")


@pytest.mark.slow
def test_trouble_late_in_a_file_ends_the_workers_too(tmp_path: Path) -> None:
    path = tmp_path / "papers.json"
    path.write_text(json.dumps(made_up_papers(600))[:-40])
    assert_refused(tmp_path, [path], ScientificData(num_workers=2), "papers.json", "record 599")
    assert multiprocessing.active_children() == []


def test_no_usable_paper_says_why(tmp_path: Path) -> None:
    path = write_papers(tmp_path, [*made_up_papers(3), {"pmid": "1"}])
    settings = ScientificData(filters=Filters(min_score=1000), num_workers=1)
    assert_refused(
        tmp_path,
        [path],
        settings,
        "no usable paper",
        "4 records",
        "score_too_low 3 (record 0 of papers.json: score ",
        "no_score 1 (record 3 of papers.json: the paper has no score",
    )
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 4
    empty = write_papers(tmp_path, [], "empty.json")
    assert_refused(tmp_path, [empty], settings, "empty.json", "0 records read")


def test_ten_papers_are_enough(tmp_path: Path) -> None:
    for seed in range(5):
        papers = made_up_papers(10, seed)
        preparation = prepare(tmp_path, papers, with_split(salt=str(seed)), f"out{seed}")
        assert min(s["papers"] for s in preparation.manifest["splits"].values()) >= 1


def test_a_limit_is_named_with_its_key(tmp_path: Path) -> None:
    path = write_papers(tmp_path, made_up_papers(20))
    settings = ScientificData(limits=Limits(max_record_bytes=100), num_workers=1)
    assert_refused(
        tmp_path, [path], settings, "record 0", "scientific_data.limits.max_record_bytes"
    )


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    settings = ScientificData(num_workers=1)
    assert_refused(tmp_path, [tmp_path / "gone.json"], settings, "gone.json", "does not exist")
    assert_refused(tmp_path, [tmp_path], settings, "no regular file")
    assert_refused(tmp_path, [], settings, "no file of papers")


def test_a_language_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write_papers(tmp_path, made_up_papers(20))
    settings = ScientificData(filters=Filters(language="english"), num_workers=1)
    assert_refused(tmp_path, [path], settings, "filters.language 'english'", " en,")


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = write_papers(tmp_path, made_up_papers(20))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*Not a directory"):
        prepare_dataset([path], ScientificData(), tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("key", "content", "expected"),
    [
        ("previous_manifest", None, "cannot be read"),
        ("previous_manifest", b"[]", "no dataset manifest"),
        ("decontaminate_against", None, "cannot be read"),
        ("decontaminate_against", b'{"text": "x', "benchmark.jsonl"),
        ("decontaminate_against", b"", "benchmark.jsonl"),
    ],
)
def test_a_bad_file_in_the_split_settings_is_named(
    tmp_path: Path, key: str, content: bytes | None, expected: str
) -> None:
    path = write_papers(tmp_path, made_up_papers(20))
    named = tmp_path / "benchmark.jsonl"
    if content is not None:
        named.write_bytes(content)
    assert_refused(tmp_path, [path], with_split(**{key: str(named)}), expected)


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    path = write_papers(tmp_path, made_up_papers(40))
    program = tmp_path / "program.py"
    program.write_text(KILLED_PROGRAM)
    process = subprocess.run(
        [sys.executable, str(program), str(path), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in process.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# Kills itself when the workers are at work, and tells their process ids before.
KILLED_PROGRAM = """
import multiprocessing, os, signal, sys
from pathlib import Path
from steps.config.paper_sections import ScientificData
from steps.papers import chunks, pipeline

def killed(stage, done):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    chunks.CHUNK_RECORDS = 4
    pipeline.prepare_dataset(
        [Path(sys.argv[1])], ScientificData(num_workers=2), Path(sys.argv[2]), killed
    )
"""
