"""The evaluate step on a trained tiny model, against one real store."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from tests.support.trained_store import Trained


@pytest.fixture(scope="module")
def evaluated(trained: Trained) -> Any:
    """The run of an evaluation of the challenger."""
    said = trained.step("evaluate")
    assert "evaluating it now" in said, "the base was not evaluated"
    return trained.runs("evaluate")[1]


def test_the_base_is_evaluated_by_the_same_code_once(trained: Trained, evaluated: Any) -> None:
    base, side = trained.runs("evaluate")[:2]
    assert (base.data.tags["forge.model_uri"], side.data.tags["forge.model_uri"]) == (
        "base",
        "models:/tiny/1",
    )
    assert base.data.tags["mlflow.parentRunId"] == side.info.run_id
    assert base.data.metrics.keys() >= {"test/bits_per_byte", "test/general_bits_per_byte"}
    before = len(trained.runs("evaluate"))
    assert "evaluating it now" not in trained.step("evaluate")
    assert len(trained.runs("evaluate")) == before + 1


def test_a_second_evaluation_gives_the_same_bits(
    trained: Trained, evaluated: Any, tmp_path: Path
) -> None:
    trained.step("evaluate")
    again = trained.runs("evaluate")[0]
    first, second = (
        {
            name: trained.fetch(run.info.run_id, name, tmp_path / run.info.run_id).read_bytes()
            for name in ("per_paper.parquet", "general.parquet", "metrics.json", "report.html")
        }
        for run in (evaluated, again)
        if not (tmp_path / run.info.run_id).mkdir()
    )
    # Whose page it is and when it was made is all that may differ.
    for files in (first, second):
        page, heads = re.subn(rb'<tr><th scope="row">(run|made)</th>.*', b"", files["report.html"])
        assert heads == 2
        files["report.html"] = page
    assert first == second


def test_the_model_carries_its_metrics_on_the_dataset(trained: Trained, evaluated: Any) -> None:
    version = trained.client.get_model_version("tiny", "1")
    model = trained.client.get_logged_model(version.source.removeprefix("models:/"))
    metrics = {metric.key: metric for metric in model.metrics}
    assert metrics["test/bits_per_byte"].value == evaluated.data.metrics["test/bits_per_byte"]
    (dataset,) = evaluated.inputs.dataset_inputs
    assert metrics["test/bits_per_byte"].dataset_digest == dataset.dataset.digest
    assert metrics["test/bits_per_byte"].dataset_name == dataset.dataset.name


def test_tables_figures_and_the_report_are_artifacts(
    trained: Trained, evaluated: Any, tmp_path: Path
) -> None:
    run_id = evaluated.info.run_id
    names = {f.path for f in trained.client.list_artifacts(run_id)}
    assert names >= {"per_paper.parquet", "metrics.json", "generations.parquet", "report.html"}
    assert names >= {"cloze.parquet", "facts.parquet"}
    assert {f.path for f in trained.client.list_artifacts(run_id, "figures")} == {
        "figures/bits_per_byte_by_part.png",
        "figures/reliability.png",
        "figures/surprise_1.png",
        "figures/surprise_2.png",
    }
    table = json.loads(trained.fetch(run_id, "tables/per_paper.json", tmp_path).read_text())
    per_paper = pd.read_parquet(trained.fetch(run_id, "per_paper.parquet", tmp_path))
    assert table["columns"] == list(per_paper.columns)
    assert len(table["data"]) == len(per_paper) == 13
    page = trained.fetch(run_id, "report.html", tmp_path).read_text(encoding="utf-8")
    for words in ("the base model needs", "Papers that gained most", "<p>base</p>", "13 papers: "):
        assert words in page, words


def test_metrics_name_strata_sections_bands_and_what_was_forgotten(evaluated: Any) -> None:
    metrics = evaluated.data.metrics
    for name in (
        "gene_bits_per_byte",
        "title_bits_per_byte",
        "score_60_to_80_bits_per_byte",
        "general_bits_per_byte_above_base",
        "general_bits_per_byte_above_base_ci_low",
        "gene_cloze_mrr_chance",
        "gene_cloze_ece",
        "fact_cloze_accuracy",
        "fact_cloze_seen_mrr",
        "facts_gained_per_million_tokens",
        "memorised_share",
    ):
        assert f"test/{name}" in metrics, name
    assert metrics["test/intervals_reliable"] == 0


def test_stored_facts_give_the_figures_again(
    trained: Trained, evaluated: Any, tmp_path: Path
) -> None:
    facts = pd.read_parquet(trained.fetch(evaluated.info.run_id, "facts.parquet", tmp_path))
    assert facts["kind"].tolist() == ["gene_variant"] * len(facts)
    assert set(facts["subject"]) == {"PTPN22", "HBB"}
    right = [rank == 1 for rank in facts["rank"]]
    assert evaluated.data.metrics["test/fact_cloze_accuracy"] == sum(right) / len(facts)
    for row in facts.itertuples():
        assert row.rank == sum(nats <= row.nats[row.truth] for nats in row.nats)


def test_papers_of_the_training_split_are_refused_or_flagged(
    trained: Trained, tmp_path: Path
) -> None:
    said = trained.step("evaluate", "--split", "train", code=2)
    assert "tiny/1 was trained on 36 of the 36 papers of split 'train'" in said
    allowed = "training.evaluation.allow_trained_papers=true training.evaluation.cloze_items=0"
    trained.step("evaluate", "--split", "train", "--overrides", allowed)
    run = next(r for r in trained.runs("evaluate") if "mlflow.parentRunId" not in r.data.tags)
    assert run.data.tags["forge.trained_papers_scored"] == "36"
    assert run.data.metrics["train/trained_papers"] == 36
    page = trained.fetch(run.info.run_id, "report.html", tmp_path).read_text(encoding="utf-8")
    assert "trained on 36 of these papers" in page


def test_lineage_goes_back_to_the_runs_that_a_run_was_resumed_from(
    trained: Trained, tmp_path: Path
) -> None:
    from steps.tracking.datasets import fetch_dataset
    from steps.tracking.registry.lineage import training_lineage
    from steps.tracking.registry.model_reference import ModelReference

    experiment = trained.client.get_experiment_by_name("tiny").experiment_id
    resumed = trained.client.create_run(experiment).info.run_id
    trained.client.set_tag(resumed, "forge.dataset_run", trained.dataset)
    again = trained.client.create_run(experiment).info.run_id
    trained.client.set_tag(again, "forge.resumed_from", resumed)
    trained.client.set_tag(again, "forge.dataset_run", "0123456789abcdef")
    stored = fetch_dataset(trained.client, trained.dataset, tmp_path / "data")
    lineage = training_lineage(
        trained.client, ModelReference("runs:/x", None, again), stored, tmp_path
    )
    assert lineage.trained_papers() == set(stored.manifest["splits"]["train"]["paper_ids"])
    assert "0123456789abcdef has no dataset that can be read" in lineage.gap
    # A run that points to itself, or to one that is gone, ends the walk.
    trained.client.set_tag(resumed, "forge.resumed_from", again)
    assert len(
        training_lineage(
            trained.client, ModelReference("x", None, again), stored, tmp_path
        ).datasets
    )
    gone = training_lineage(trained.client, ModelReference("x", None, "f" * 32), stored, tmp_path)
    assert "is gone" in gone.gap


def test_a_model_whose_training_data_cannot_be_seen_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    client = trained.client
    client.set_tag(trained.training, "forge.dataset_run", "0123456789abcdef")
    try:
        said = trained.step("evaluate", code=2)
    finally:
        client.set_tag(trained.training, "forge.dataset_run", trained.dataset)
    assert "its training papers are unknown" in said
    assert "allow_trained_papers=true" in said


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("evaluate", ("--model", "models:/tiny@nobody"), "is not in the registry"),
        ("evaluate", ("--dataset", "0123abcd"), "has no dataset that can be read"),
        (
            "evaluate",
            ("--overrides", "training.evaluation.general_texts=missing.json"),
            "missing.json",
        ),
        (
            "evaluate",
            ("--overrides", "training.evaluation.score_bands=[80,60]"),
            "each has to be above the one before",
        ),
        (
            "ab_compare",
            ("--overrides", "training.comparison.metric=mlm_loss"),
            "they are causal models, which have none",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    trained: Trained, evaluated: Any, name: str, arguments: tuple[str, ...], words: str
) -> None:
    said = trained.step(name, *arguments, code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert words in errors[0]


def test_a_version_whose_weights_are_gone_is_named(trained: Trained) -> None:
    version = trained.client.get_model_version("tiny", "1")
    model = trained.client.get_logged_model(version.source.removeprefix("models:/"))
    weights = trained.folder(model.artifact_location)
    weights.rename(weights.with_name("away"))
    try:
        said = trained.step("evaluate", code=2)
    finally:
        weights.with_name("away").rename(weights)
    assert "error: model models:/tiny/1 holds no adapter: its weights were deleted" in said


def test_a_dataset_whose_bytes_are_gone_is_named(trained: Trained) -> None:
    run = trained.client.get_run(trained.dataset)
    dataset = trained.folder(run.info.artifact_uri) / "dataset"
    dataset.rename(dataset.with_name("away"))
    try:
        said = trained.step("evaluate", code=2)
    finally:
        dataset.with_name("away").rename(dataset)
    assert f"error: dataset 'latest': run {trained.dataset} has no dataset" in said


def test_an_empty_split_is_named(trained: Trained) -> None:
    trained.step(
        "preprocess", "--overrides", "training.scientific_data.split.validation_fraction=0"
    )
    made = trained.runs("preprocess")[0].info.run_id
    said = trained.step(
        "evaluate", "--dataset", made, "--split", "validation", "--model", "base", code=2
    )
    assert "error: split 'validation' of dataset" in said
    assert "training.scientific_data.split.validation_fraction above 0" in said
    # The next test's latest dataset is the first one again.
    trained.client.delete_run(made)


def artifact_of(run_id: str, name: str) -> Path:
    return Path(str(mlflow.get_run(run_id).info.artifact_uri).removeprefix("file://")) / name


def test_a_cut_result_serves_nobody_who_asks_for_more(trained: Trained, tmp_path: Path) -> None:
    def evaluated_within(minutes: str) -> tuple[str, Any]:
        budget = f"training.evaluation.budget_minutes={minutes} training.evaluation.seed=9"
        said = trained.step("evaluate", "--model", "base", "--overrides", budget)
        return said, trained.runs("evaluate")[0]

    def reused(minutes: str) -> Any:
        from steps.config.file import load_config
        from steps.tracking.cache import find_reusable, key_parts
        from steps.tracking.evaluations import evaluation_inputs
        from steps.tracking.registry.model_reference import ModelReference

        budget = f"training.evaluation.budget_minutes={minutes} training.evaluation.seed=9"
        training = load_config(trained.config, budget).training
        digest = trained.client.get_run(trained.dataset).data.tags["forge.dataset_digest"]
        base = ModelReference("base", None, None)
        parts = key_parts("evaluate", training, evaluation_inputs(training, base, digest, "test"))
        experiment = trained.client.get_experiment_by_name("tiny").experiment_id
        found, _ = find_reusable(trained.client, experiment, "evaluate", parts)
        return found and found.info.run_id

    said, cut = evaluated_within("0.0001")
    assert "evaluation.budget_minutes=0.0001 cuts gene cloze to 0 of 10" in said
    assert json.loads(cut.data.tags["forge.cut"])["generation"] == [0, 2]
    assert cut.data.metrics["test/gene_cloze_measured_share"] == 0
    assert cut.data.metrics["test/bits_per_byte"] > 0
    page = trained.fetch(cut.info.run_id, "report.html", tmp_path).read_text(encoding="utf-8")
    assert "Measured in part" in page and "gene cloze to 0%" in page
    assert reused("0.0001") == cut.info.run_id
    assert reused("null") is None
    assert reused("500") is None

    said, whole = evaluated_within("500")
    assert "cuts" not in said
    assert "forge.cut" not in whole.data.tags
    assert reused("null") == reused("500") == reused("0.0001") == whole.info.run_id


def test_a_flipped_byte_in_an_adapter_is_not_scored(trained: Trained) -> None:
    version = trained.client.get_model_version_by_alias("tiny", "challenger")
    model = trained.client.get_logged_model(version.source.removeprefix("models:/"))
    places = [
        Path(model.artifact_location.removeprefix("file://")) / "artifacts" / "adapter",
        artifact_of(trained.training, "adapter"),
    ]
    for place, name in zip(places, ("models:/tiny/1", trained.training), strict=True):
        file = place / "adapter_model.safetensors"
        content = file.read_bytes()
        changed = bytearray(content)
        changed[-3] ^= 1
        file.write_bytes(changed)
        try:
            said = trained.step("evaluate", "--model", name, code=2)
        finally:
            file.write_bytes(content)
        assert "its files are not those that finetune wrote" in said


@pytest.mark.parametrize("damage", ["scaled", "cut", "pickled", "gone", "metrics"])
def test_changed_results_are_measured_again(trained: Trained, damage: str) -> None:
    import pandas as pd

    sides = ("--champion", "base", "--challenger", "models:/tiny/1", "--promote", "never")
    trained.step("ab_compare", *sides)
    whole = trained.runs("ab_compare")[0].data.metrics["comparison/gain"]
    # Other tests evaluate under other settings; the one that was used is found by its key.
    used = trained.used_by_comparison()
    file = artifact_of(used.info.run_id, "per_paper.parquet")
    if damage == "scaled":
        frame = pd.read_parquet(file)
        frame.assign(nats=frame["nats"] * 0.1).to_parquet(file, index=False)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "pickled":
        pd.read_parquet(file).to_pickle(file)
    elif damage == "gone":
        file.unlink()
    else:
        artifact_of(used.info.run_id, "metrics.json").write_text('{"test/memorised_share": 0}')
    before = len(trained.runs("evaluate"))
    said = trained.step("ab_compare", *sides)
    assert "evaluating it now" in said
    assert trained.runs("ab_compare")[0].data.metrics["comparison/gain"] == whole
    assert len(trained.runs("evaluate")) == before + 1


def test_results_without_digests_are_read_and_never_promoted(trained: Trained) -> None:
    sides = ("--champion", "base", "--challenger", "models:/tiny/1", "--promote", "never")
    trained.step("ab_compare", *sides)
    name = "forge.results_sha256"
    noted = {r.info.run_id: r.data.tags.get(name) for r in trained.runs("evaluate")}
    noted = {run_id: value for run_id, value in noted.items() if value}
    for run_id in noted:
        trained.client.delete_tag(run_id, name)
    trained.step("ab_compare", *sides)
    for run_id, value in noted.items():
        trained.client.set_tag(run_id, name, value)
    decided = trained.runs("ab_compare")[0].data.tags
    assert decided["forge.decision"] == "inconclusive"
    assert "were stored without digests: evaluate it again" in decided["forge.decision_reason"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"dataset_digest": 1}'])
def test_a_broken_manifest_of_a_dataset_is_one_line(trained: Trained, content: str) -> None:
    file = artifact_of(trained.dataset, "dataset/manifest.json")
    whole = file.read_text()
    file.write_text(content)
    try:
        assert "has no dataset that can be read" in trained.step("evaluate", code=2)
    finally:
        file.write_text(whole)


def test_tasks_are_asked_of_model_and_base_and_compared_item_by_item(
    trained: Trained, tmp_path: Path
) -> None:
    from steps.papers.stored_papers import read_papers
    from steps.tracking.datasets import fetch_dataset

    stored = fetch_dataset(trained.client, trained.dataset, tmp_path / "data")
    seen = " ".join(read_papers(stored.folder, "train")[0].text.split()[:20])
    file = tmp_path / "genes.csv"
    unseen = [f"Which of these is gene {n}?,A{n},B{n},C{n},D{n},{'ABCD'[n % 4]}" for n in range(30)]
    file.write_text("\n".join([f'"{seen}?",A,B,C,D,C', *unseen]) + "\n", encoding="utf-8")
    tasks = (
        f"training.evaluation.tasks=[{{name: genes, file: {file}}}] "
        "training.evaluation.cloze_items=0 training.evaluation.generation.prompts=0 "
        "training.evaluation.general_texts=null"
    )
    guards = "training.comparison.guards=[{metric: task/genes/acc, margin: 1}]"
    sides = ("--champion", "base", "--challenger", "models:/tiny/1", "--promote", "never")

    said = trained.step("evaluate", "--overrides", tasks)
    estimates = [line for line in said.splitlines() if line.startswith("measuring ")]
    assert [estimate.count("task genes (31 items)") for estimate in estimates] == [1, 1]
    of_base, of_model = trained.runs("evaluate")[:2]
    assert of_base.data.tags["forge.model_uri"] == "base"
    items = pd.read_parquet(trained.fetch(of_model.info.run_id, "tasks.parquet", tmp_path))
    assert list(items["contaminated"]) == [True, *[False] * 30]
    assert of_model.data.metrics["test/task/genes/contaminated"] == 1
    assert of_base.data.metrics["test/task/genes/contaminated"] == 0
    assert of_model.data.metrics["test/task/genes/acc"] == items["acc"].mean()
    assert of_model.data.metrics["test/task/genes/acc_clean"] == items["acc"][1:].mean()
    page = trained.fetch(of_model.info.run_id, "report.html", tmp_path).read_text(encoding="utf-8")
    assert '<tr><th scope="row">genes</th><td>acc</td>' in page
    assert "task/genes" not in page

    before = len(trained.runs("evaluate"))
    trained.step("ab_compare", *sides, "--overrides", f"{tasks} {guards}")
    assert len(trained.runs("evaluate")) == before
    decided = trained.fetch(trained.runs("ab_compare")[0].info.run_id, "decision.json", tmp_path)
    (decision,) = json.loads(decided.read_text(encoding="utf-8"))["decisions"]
    gains = {gain["metric"]: gain["items"] for gain in decision["tasks"]}
    assert gains == {"task/genes/acc": 31, "task/genes/acc_clean": 30}
    assert [guard["outcome"] for guard in decision["guards"]] == ["holds"]

    # Changed rows are measured again, as is what another file is asked with.
    damaged = artifact_of(of_model.info.run_id, "tasks.parquet")
    items.assign(acc=1.0).to_parquet(damaged, index=False)
    said = trained.step("ab_compare", *sides, "--overrides", tasks)
    assert "tasks.parquet was changed after it was written" in said
    before = len(trained.runs("evaluate"))
    file.write_text("\n".join(unseen), encoding="utf-8")
    trained.step("ab_compare", *sides, "--overrides", tasks)
    assert len(trained.runs("evaluate")) == before + 2


def test_tasks_change_the_key_of_an_evaluation_only_where_there_are_some(
    trained: Trained, tmp_path: Path
) -> None:
    from steps.config.file import load_config
    from steps.tracking.cache import key_parts
    from steps.tracking.harness_tasks import task_inputs

    file = tmp_path / "genes.csv"
    file.write_text("q,a,b,c,d,A\n", encoding="utf-8")

    def parts(overrides: str = "") -> dict[str, str]:
        training = load_config(trained.config, overrides).training
        return key_parts("evaluate", training, task_inputs(training))

    assert not any("tasks" in name for name in parts())
    asked = parts(f"training.evaluation.tasks=[{{name: genes, file: {file}}}]")
    assert asked.keys() - parts().keys() == {"evaluation.tasks", "input tasks"}
    assert parts().items() <= asked.items()


def test_a_task_that_cannot_be_asked_stops_before_weights_and_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steps.models import adapted, loading

    file = tmp_path / "genes.csv"
    file.write_text("q,a,b,c,d,A\nq,a,b,c,d,\n", encoding="utf-8")
    tasks = f"training.evaluation.tasks=[{{name: genes, file: {file}}}]"

    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(adapted, "load_model", load)
    monkeypatch.setattr(loading, "load_model", load)
    for step in ("evaluate", "main"):
        before = len(trained.runs("preprocess"))
        said = trained.step(step, "--overrides", tasks, code=2)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert "genes.csv, record 2: its answer is ''" in errors[0]
        assert len(trained.runs("preprocess")) == before
