"""The steps in a row on a tiny model, against one real store, each from a folder of its own."""

import json
import random
import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.support.processes import newest, step
from tests.support.project import ROOT


def test_each_step_finds_its_input_in_the_store_alone(
    store: str,
    tiny_config: Path,
    tiny_llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = mlflow.MlflowClient()
    given = ("--config", str(tiny_config))
    any_language = (*given, "--overrides", "training.scientific_data.filters.language=null")

    step("preprocess", tmp_path / "one", *given)
    prepared = newest(client, "preprocess")
    assert prepared.info.status == "FINISHED"
    assert prepared.data.metrics["papers/accepted"] == 52
    assert {f.path for f in client.list_artifacts(prepared.info.run_id)} >= {
        "dataset",
        "rejected.jsonl",
        "report.html",
    }

    step("finetune", tmp_path / "two", *given)
    trained = newest(client, "finetune")
    assert trained.data.tags["forge.dataset_digest"] == prepared.data.tags["forge.dataset_digest"]
    version = client.get_model_version_by_alias("tiny", "challenger")
    assert version.run_id == trained.info.run_id
    checkpoints = {f.path for f in client.list_artifacts(trained.info.run_id, "checkpoints")}
    assert checkpoints == {"checkpoints/checkpoint-15", "checkpoints/checkpoint-30"}

    said = step("ab_compare", tmp_path / "three", *given)
    decided = newest(client, "ab_compare")
    assert decided.data.tags["forge.decision"] == "promote", said
    assert client.get_model_version_by_alias("tiny", "champion").version == version.version
    assert client.get_registered_model("tiny").aliases.keys() == {"champion"}

    # Nothing is left to compare, and saying so is no error.
    assert "nothing to compare" in step("ab_compare", tmp_path / "four", *given)
    twice = step(
        "ab_compare",
        tmp_path / "four",
        *given,
        "--champion",
        "models:/tiny/1",
        "--challenger",
        "models:/tiny/1",
        code=2,
    )
    assert "is named twice" in twice

    step("prune_checkpoints", tmp_path / "five", *given, "--apply", "true")
    left = {f.path for f in client.list_artifacts(trained.info.run_id, "checkpoints")}
    assert left == {"checkpoints/checkpoint-30"}

    # So does a stranger's process, elsewhere, with the base moved to another place.
    moved = tmp_path / "moved" / "base"
    shutil.copytree(tiny_llama_folder, moved)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("FORGE_CACHE", str(tmp_path / "empty"))
        elsewhere.setenv("FORGE_BASE_MODELS", str(moved))
        checked = step("tracking.registry.check_model", tmp_path / "seven", "models:/tiny@champion")
    assert "probe logits: 0\n" in checked

    # The registered version holds no path of this machine, and loads where only the base is.
    loaded = mlflow.pyfunc.load_model("models:/tiny@champion")
    assert loaded.unwrap_python_model().probe_difference() == 0.0
    short, longer = (
        loaded.predict(["BRCA1 is"], params={"max_new_tokens": count})[0] for count in (2, 8)
    )
    assert longer.startswith(short)
    assert len(longer) > len(short)
    folder = Path(
        mlflow.artifacts.download_artifacts(
            "models:/tiny@champion", dst_path=str(tmp_path / "copy")
        )
    )
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".yaml", ".yml", ".txt"):
            text = file.read_text(encoding="utf-8").replace(store, "")
            assert str(tmp_path) not in text or file.name == "MLmodel", file

    # A model trained on the same papers with their letters shuffled does not get its place.
    step("preprocess", tmp_path / "six", *any_language, "--papers", str(shuffled_papers(tmp_path)))
    step("finetune", tmp_path / "six", *given)
    step("preprocess", tmp_path / "six", *given)
    said = step("ab_compare", tmp_path / "six", *given)
    assert newest(client, "ab_compare").data.tags["forge.decision"] == "keep", said
    assert client.get_registered_model("tiny").aliases == {"champion": 1, "challenger": 2}


def test_a_dataset_of_another_experiment_is_hinted_at(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    """Two configurations may name different experiments."""
    given = ("--config", str(tiny_config))
    step("preprocess", tmp_path, *given)
    other = "training.mlflow.experiment_name=another"
    said = step("finetune", tmp_path, *given, "--overrides", other, code=2)
    run_id = newest(mlflow.MlflowClient(), "preprocess").info.run_id
    assert f"experiment 'tiny' has {run_id}" in said
    assert "set MLFLOW_EXPERIMENT_NAME=tiny" in said


def test_a_failing_step_stops_main_with_its_line_and_its_exit_code(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    overrides = "training.qlora.target_modules=[nonsense]"
    said = step("main", tmp_path, "--config", str(tiny_config), "--overrides", overrides, code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    # The step says it, and main says which step it was.
    assert len(errors) == 2
    assert "qlora.target_modules names 'nonsense'" in errors[0]
    assert re.fullmatch(
        r"error: finetune lora failed \(run \w+\): qlora.target_modules .*", errors[1]
    )
    client = mlflow.MlflowClient()
    statuses = {
        name: newest(client, name).info.status for name in ("main", "preprocess", "finetune")
    }
    assert statuses == {"main": "FAILED", "preprocess": "FINISHED", "finetune": "FAILED"}
    parent = newest(client, "finetune").data.tags["mlflow.parentRunId"]
    assert parent == newest(client, "main").info.run_id


def shuffled_papers(folder: Path) -> Path:
    """The demo papers with the letters of their abstracts shuffled."""
    content = json.loads((ROOT / "data/high_quality_papers_demo.json").read_text(encoding="utf-8"))
    shuffler = random.Random(0)
    for paper in content["papers"][:52]:
        letters = list(paper["abstract"])
        shuffler.shuffle(letters)
        paper["abstract"] = "".join(letters)
    file = folder / "shuffled.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_an_adapter_of_zeros_scores_as_the_base_does(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    from steps.config.file import load_config
    from steps.evaluation.measure import measure
    from steps.models.adapted import AdaptedModel, load_base
    from steps.models.adapters import add_adapter
    from steps.models.sources import resolve_base
    from steps.papers.general_texts import read_general_texts
    from tests.support.tiny_runs import papers

    training = load_config(tiny_config).training
    base = load_base(resolve_base(training.model), hardware=training.hardware)
    texts = read_general_texts(training.evaluation.general_texts)
    plain = measure(training, base, papers(4), papers(2), general_texts=texts)
    wrapped = add_adapter(base.model, training.qlora, "causal").eval()
    zeros = AdaptedModel(
        wrapped, base.tokenizer, base.objective, base.dtype, base.device, base.description
    )
    adapted = measure(training, zeros, papers(4), papers(2), general_texts=texts)
    pd.testing.assert_frame_equal(plain.per_paper, adapted.per_paper)
    assert plain.metrics == adapted.metrics


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("finetune", ("--dataset", "latest"), "no finished preprocess run"),
        ("finetune", ("--dataset", "0123abcd"), "has no dataset that can be read"),
        ("evaluate", ("--model", "models:/tiny@challenger"), "is not in the registry"),
        ("evaluate", ("--model", "nonsense"), "is not in the registry or the store"),
        ("ab_compare", ("--rollback", "true"), "nothing to roll back to"),
        ("preprocess", ("--papers", "missing.json"), "does not exist"),
        ("prune_checkpoints", ("--run", "0123abcd"), "is not in this tracking store"),
    ],
)
def test_bad_input_is_one_line_and_a_failed_run_with_the_error_as_a_tag(
    store: str, tiny_config: Path, tmp_path: Path, name: str, arguments: tuple[str, ...], words: str
) -> None:
    said = step(name, tmp_path / "x", "--config", str(tiny_config), *arguments, code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    run = newest(mlflow.MlflowClient(), name)
    assert run.info.status == "FAILED"
    assert words in run.data.tags["forge.error"]
