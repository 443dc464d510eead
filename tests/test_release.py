"""The release step on a trained tiny model, against one real store."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import TOKEN, hub_server
from tests.support.trained_store import Trained

MODEL = ("--model", "models:/tiny/1")


@pytest.fixture(scope="module")
def released(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A release that went into a folder, and its run."""
    folder = tmp_path_factory.mktemp("pushed") / "out"
    trained.step("release", *MODEL, "--push-to", f"folder:{folder}")
    return folder, trained.runs("release")[0]


def test_forms_that_score_as_the_version_are_stored_with_their_figures(
    trained: Trained, released: Any, tmp_path: Path
) -> None:
    run = released[1]
    fidelity = json.loads(trained.fetch(run.info.run_id, "fidelity.json", tmp_path).read_text())
    assert [form["form"] for form in fidelity["forms"]] == ["adapter", "merged"]
    assert all(form["refusal"] == "" and form["papers"] == 13 for form in fidelity["forms"])
    stored = {file.path for file in trained.client.list_artifacts(run.info.run_id, "release")}
    assert stored == {"release/adapter", "release/merged"}
    assert run.data.tags["forge.model_uri"] == "models:/tiny/1"
    assert abs(run.data.metrics["test/bits_per_byte_difference/merged"]) < 0.002
    report = trained.fetch(run.info.run_id, "report.html", tmp_path).read_text()
    assert "2 of 2 forms" in report


def test_a_folder_gets_what_transformers_loads(released: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = released[0] / "merged"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = model.generate(**tokenizer("The gene", return_tensors="pt"), max_new_tokens=4)
    assert written.shape[1] > 4
    assert "difference" in (folder / "README.md").read_text()


def test_the_registry_gets_versions_that_name_their_parent(trained: Trained) -> None:
    trained.step("release", *MODEL, "--formats", "merged", "--push-to", "registry")
    (version,) = trained.client.search_model_versions("name = 'tiny-release'")
    assert version.tags["forge.released_from"] == "models:/tiny/1"
    assert version.tags["forge.release_form"] == "merged"
    # The versions that can be promoted are as they were.
    assert len(trained.client.search_model_versions("name = 'tiny'")) == 1


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_the_token_of_a_push_is_in_no_file_and_no_line(trained: Trained) -> None:
    with hub_server() as hub:
        said = trained.step("release", *MODEL, "--formats", "merged", "--push-to", "hub:lab/papers")
    assert "pushed to lab/papers" in said
    assert hub.repositories["lab/papers"].keys() >= {"model.safetensors", "README.md"}
    run = trained.runs("release")[0]
    assert run.data.tags["forge.pushed_to"] == "lab/papers"
    store = trained.config.parent
    files = [file for file in store.rglob("*") if file.is_file()]
    assert len(files) > 50
    token = TOKEN.encode()
    assert [file for file in files if token in file.read_bytes()] == []
    assert TOKEN not in said
    pushed = hub.repositories["lab/papers"]
    assert [name for name, content in pushed.items() if token in content] == []


def test_what_is_refused_is_neither_stored_nor_pushed(trained: Trained, tmp_path: Path) -> None:
    strict = ("--overrides", "training.release.max_loss.near_lossless=0.0")
    target = tmp_path / "out"
    said = trained.step("release", *MODEL, "--push-to", f"folder:{target}", *strict, code=2)
    assert "merged: refused: scores" in said
    assert "1 of 2 forms are not what was promoted" in said
    run = trained.runs("release")[0]
    stored = {file.path for file in trained.client.list_artifacts(run.info.run_id, "release")}
    assert stored == {"release/adapter"}
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--formats", "awq"), "'awq', which is none: expected some of adapter, merged"),
        (("--formats", "onnx"), "onnx is not offered for this version: no kept exporter"),
        (("--formats", "gguf:f16", "--overrides", "training.release.prompts=-1"), "prompts"),
        (("--formats", "merged,gguf:q8_0"), "converter does not take its vocabulary"),
        (("--push-to", "s3:bucket"), "expected folder:PATH, registry, or hub:OWNER/NAME"),
        (("--push-to", "hub:lab/name"), "there is no token for the hub"),
        (("--push-to", "folder:."), "is there already and not empty"),
        (("--model", "base"), "published already"),
        (("--model", ""), "champion"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], words: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    said = trained.step("release", *MODEL, *arguments, code=2)
    assert words in said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    # Nothing was merged, let alone stored.
    assert "measured on" not in said


def test_licences_and_retracted_papers_are_named_and_a_release_of_others_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    manifest = json.loads(
        trained.fetch(trained.dataset, "dataset/manifest.json", tmp_path).read_text()
    )
    paper = manifest["splits"]["train"]["paper_ids"][0]
    (tmp_path / "list.txt").write_text(f"{paper}\n", encoding="utf-8")
    retracted = ("--overrides", f"training.release.retracted={tmp_path / 'list.txt'}")
    target = tmp_path / "out"
    pushed = ("--formats", "adapter", "--push-to", f"folder:{target}")
    said = trained.step("release", *MODEL, *pushed, *retracted)
    counted = f"Trained on {manifest['splits']['train']['papers']} papers; licences: not said"
    assert counted in said
    assert f"Retracted since (list.txt): {paper}" in said
    assert counted in (target / "adapter" / "README.md").read_text(encoding="utf-8")
    run = trained.runs("release")[0]
    assert run.data.tags["forge.retracted_papers"] == paper
    ledger = trained.fetch(run.info.run_id, "licences.csv", tmp_path).read_text(encoding="utf-8")
    assert len(ledger.splitlines()) == 1 + manifest["splits"]["train"]["papers"]
    assert paper in trained.fetch(run.info.run_id, "report.html", tmp_path).read_text()

    said = trained.step("evaluate", *MODEL, *retracted)
    assert f"tiny/1 was trained on 1 paper ({paper}), retracted by list.txt" in said
    # The base is evaluated within, and begins later.
    evaluated = next(
        run
        for run in trained.runs("evaluate")
        if run.data.tags["forge.model_uri"] == "models:/tiny/1"
    )
    assert evaluated.data.tags["forge.retracted_papers"] == paper
    report = trained.fetch(evaluated.info.run_id, "report.html", tmp_path).read_text()
    assert "retracted since" in report

    said = trained.step("prune_checkpoints", *retracted)
    assert f"models:/tiny/1 (challenger) was trained on 1 paper ({paper})" in said

    open_only = ("--overrides", "training.release.allowed_licenses=[cc-by]")
    said = trained.step("release", *MODEL, *open_only, code=2)
    assert "training papers hold licences that release.allowed_licenses does not name" in said
    assert "not said" in said
    missing = ("--overrides", "training.release.retracted=nothere.txt")
    assert "release.retracted 'nothere.txt' does not exist" in trained.step(
        "release", *MODEL, *missing, code=2
    )


def test_a_full_disk_is_seen_before_anything_is_made(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage)
    said = trained.step("release", *MODEL, code=2)
    assert "takes up to" in said
    assert "measured on" not in said


def test_a_version_whose_base_is_gone_is_one_line(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "empty"))
    said = trained.step("release", *MODEL, code=2)
    assert "is not on this machine" in said
    assert "measured on" not in said
