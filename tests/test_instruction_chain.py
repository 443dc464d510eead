"""An instruction model from items to a promoted version that answers, and what stops it before."""

import json
from pathlib import Path

import mlflow
import pytest

from tests.support.processes import newest, step
from tests.support.project import ROOT


@pytest.fixture
def instruction_config(tiny_config: Path, tmp_path: Path) -> Path:
    """The tiny configuration, for items about the demo papers."""
    file = tmp_path / "instruction.yaml"
    file.write_text(
        f"""
extends: {tiny_config.name}
training:
  model: {{objective: instruction}}
  instructions:
    data_file: {ROOT / "data" / "instructions_demo.jsonl"}
    chat_template: configs/chat_templates/plain.jinja
  comparison:
    min_papers: 2
    guards: [{{metric: general, margin: 1000}}]
  evaluation: {{answers: 4, generation: {{max_new_tokens: 8}}}}
""",
        encoding="utf-8",
    )
    return file


def test_an_instruction_model_goes_from_items_to_a_version_that_answers(
    store: str, instruction_config: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    given = ("--config", str(instruction_config))
    said = step("preprocess", tmp_path / "one", *given)
    assert "instruction items: 65 read, 65 accepted" in said
    step("finetune", tmp_path / "two", *given)
    trained = newest(client, "finetune")
    assert trained.info.status == "FINISHED"
    assert trained.data.tags["forge.objective"] == "instruction"
    assert "validation/answer_bits_per_byte" in trained.data.metrics
    assert "validation/bits_per_byte" not in trained.data.metrics

    said = step("ab_compare", tmp_path / "three", *given)
    assert newest(client, "ab_compare").data.tags["forge.decision"] in ("promote", "inconclusive")
    evaluated = newest(client, "evaluate")
    assert evaluated.data.tags["forge.objective"] == "instruction"
    scored = evaluated.data.metrics
    answers = ("answer_bits_per_byte", "exact_match", "token_f1", "format_failure_share")
    assert {f"test/{name}" for name in answers} <= scored.keys()
    assert "test/bits_per_byte" not in scored
    assert "answer bits per byte" in said

    loaded = mlflow.pyfunc.load_model("models:/tiny/1")
    model = loaded.unwrap_python_model()
    assert model.probe_difference() == 0.0
    # Asked as it was trained: the question within the template.
    opened = model.adapted.tokenizer.decode(model._prompt("Which gene?"))
    assert opened == "<s>### Question\n\nWhich gene?\n\n### Answer\n\n"
    assert len(loaded.predict(["Which gene?"], params={"max_new_tokens": 4})) == 1

    # Papers are another objective: it is told before anything is measured.
    papers = ("--config", str(instruction_config.with_name("tiny.yaml")))
    sides = ("--champion", "base", "--challenger", "models:/tiny/1")
    refused = step("ab_compare", tmp_path / "four", *papers, *sides, code=2)
    assert "base is causal, tiny/1 is instruction" in refused


def test_items_without_any_papers_go_all_the_way(
    store: str, instruction_config: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    given = ("--config", str(instruction_config))
    alone = ("--overrides", "training.scientific_data.data_file=null")
    said = step("preprocess", tmp_path / "one", *given, *alone)
    assert "instruction items: 65 read, 65 accepted" in said
    made = newest(client, "preprocess")
    report = Path(client.download_artifacts(made.info.run_id, "report.html", str(tmp_path)))
    assert "Instruction items" in report.read_text(encoding="utf-8")
    step("finetune", tmp_path / "two", *given)
    step("evaluate", tmp_path / "three", *given)
    evaluated = newest(client, "evaluate")
    assert evaluated.data.metrics["test/items"] > 0
    assert "test/answer_bits_per_byte" in evaluated.data.metrics
    with_papers = step("preprocess", tmp_path / "four", *given, *alone, "--overrides",
        "training.scientific_data.data_file=null training.instructions.data_file=null "
        "training.model.objective=auto", code=2)  # fmt: skip
    assert "name papers, instruction items, or both" in with_papers


def test_bad_input_is_one_line_each(store: str, instruction_config: Path, tmp_path: Path) -> None:
    def line(name: str, *overrides: str) -> str:
        chosen = ("--config", str(instruction_config), "--overrides", " ".join(overrides))
        said = step(name, tmp_path / "refused", *chosen, code=2)
        (error,) = [one for one in said.splitlines() if one.startswith("error:")]
        return error

    assert "training.instructions.data_file is null: name a file" in line(
        "preprocess", "training.instructions.data_file=null"
    )
    assert "no-such.jsonl" in line("preprocess", "training.instructions.data_file=no-such.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text(json.dumps({"question": "Which gene?", "answer": ""}))
    assert "rejected for empty_answer 1 (record 0 of empty.jsonl" in line(
        "preprocess", f"training.instructions.data_file={empty}"
    )
    step(
        "preprocess",
        tmp_path / "papers",
        "--config",
        str(instruction_config.with_name("tiny.yaml")),
    )
    assert "the dataset holds no instruction items" in line("finetune")
    step("preprocess", tmp_path / "items", "--config", str(instruction_config))
    assert "has no chat template: name one by training.instructions.chat_template" in line(
        "finetune", "training.instructions.chat_template=null"
    )
    assert "'plane.jinja' is not a file" in line(
        "finetune", "training.instructions.chat_template=plane.jinja"
    )
