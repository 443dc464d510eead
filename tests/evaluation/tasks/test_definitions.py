"""From the configuration to tasks with their data: the harness' own words, refusals in one line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from steps.config.measurement_sections import Evaluation
from steps.errors import UserError
from steps.evaluation.tasks import definitions
from steps.evaluation.tasks.definitions import prepare_tasks
from steps.evaluation.tasks.files import task_files
from tests.support.project import demo_texts
from tests.support.task_files import write_choice_task, write_mmlu, write_pubmedqa


def prepared(*entries: Any, objective: Any = "causal") -> dict[str, Any]:
    """The harness' tasks by name."""
    tasks = Evaluation(tasks=entries).tasks
    made = prepare_tasks(tasks, objective=objective, model="tiny/1")
    return {name: task for one in made for name, task in one.tasks.items()}


def first_prompt(task: Any) -> tuple[str, list[str]]:
    """The prompt of the first item, and what is asked to follow it."""
    task.build_all_requests(limit=1)
    arguments = [instance.args for instance in task.instances]
    assert len({prompt for prompt, _ in arguments}) == 1
    return arguments[0][0], [choice for _, choice in arguments]


def test_mmlu_is_asked_in_the_words_of_the_harness(tmp_path: Path) -> None:
    file, examples = write_mmlu(tmp_path, 3), write_mmlu(tmp_path, 2, "dev.csv")
    entry = {"name": "mmlu_medical_genetics", "file": str(file)}
    prompt, choices = first_prompt(prepared(entry)["mmlu_medical_genetics"])
    assert prompt == (
        "The following are multiple choice questions (with answers) about medical genetics.\n\n"
        "Which gene is meant by 0?\nA. A0\nB. B0\nC. C0\nD. D0\nAnswer:"
    )
    assert choices == [" A", " B", " C", " D"]
    shown = entry | {"fewshot_file": str(examples), "num_fewshot": 2}
    prompt, _ = first_prompt(prepared(shown)["mmlu_medical_genetics"])
    assert prompt.count("Answer: ") == 2
    assert prompt.endswith("Which gene is meant by 0?\nA. A0\nB. B0\nC. C0\nD. D0\nAnswer:")
    # A subject that Hendrycks does not have.
    (own,) = prepared({"name": "plant_genetics", "file": str(file)}).values()
    assert "(with answers) about plant genetics.\n\n" in first_prompt(own)[0]


def test_pubmedqa_is_asked_in_the_words_of_the_harness(tmp_path: Path) -> None:
    file, truth = write_pubmedqa(tmp_path, 4)
    entry = {"name": "pubmedqa", "file": str(file), "ground_truth": str(truth)}
    prompt, choices = first_prompt(prepared(entry)["pubmedqa"])
    assert prompt == "Abstract: First 0.\nSecond 0.\nQuestion: Does 0?\nAnswer:"
    assert choices == [" yes", " no", " maybe"]
    (task,) = prepared(entry | {"num_fewshot": 1}).values()
    assert first_prompt(task)[0].count("Question: ") == 2


def test_the_random_state_is_left_as_it_was(tmp_path: Path) -> None:
    file = write_choice_task(tmp_path, demo_texts()[:4])
    random.seed(7)
    expected = random.random()
    random.seed(7)
    prepared(str(file))
    assert random.random() == expected


def test_data_beside_a_task_yaml_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_choice_task(tmp_path / "there", demo_texts()[:4])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (task,) = prepared(str(file)).values()
    assert len(task.eval_docs) == 4
    names = {one.name for one in task_files(Evaluation(tasks=(str(file),)).tasks)}
    assert names == {"choice.yaml", "choice.jsonl"}


def refused(*entries: Any, objective: Any = "causal") -> str:
    with pytest.raises(UserError) as raised:
        prepared(*entries, objective=objective)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_masked_models_have_no_tasks() -> None:
    # Nothing is read: neither the file nor the task exists.
    message = refused({"name": "x", "file": "no.csv"}, "mmlu", objective="masked")
    assert "names x, mmlu: tasks ask for the log-likelihood" in message
    assert "tiny/1 is a masked model, which has neither" in message


def test_unknown_tasks_name_the_nearest_and_the_hub_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    few = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(definitions, "_manager", lambda: few)
    message = refused("mmlu_medical_genetic")
    assert "no task 'mmlu_medical_genetic'; did you mean mmlu_medical_genetics" in message
    message = refused("mmlu_medical_genetics")
    assert "task 'mmlu_medical_genetics' needs data from the hub, which is out of reach" in message
    assert "{name: mmlu_medical_genetics, file: PATH}" in message


def test_a_hub_that_does_not_answer_is_asked_no_further_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datasets import config
    from huggingface_hub import constants

    for module in (config, constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    # A port that nobody listens on.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with definitions._quick_where_there_is_no_hub():
        assert config.HF_HUB_OFFLINE
        assert constants.HF_HUB_OFFLINE
    assert not config.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_what_is_wrong_with_a_local_task_is_one_line(tmp_path: Path) -> None:
    file = write_choice_task(tmp_path, demo_texts()[:4])
    content = file.read_text(encoding="utf-8")
    data = tmp_path / "choice.jsonl"
    items = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]

    def with_yaml(before: str, after: str) -> str:
        changed = tmp_path / "changed.yaml"
        assert before in content
        changed.write_text(content.replace(before, after), encoding="utf-8")
        return refused(str(changed))

    assert "no single task of the harness" in with_yaml("task: choice_task", "group: some")
    assert "data file 'gone.jsonl' is neither" in with_yaml("test: choice", "test: gone")
    assert "cannot build this task" in with_yaml("test_split: test", "test_split: tset")
    for metric in ("accuracies", "perplexity"):
        message = with_yaml("metric: acc,", f"metric: {metric},")
        assert f"no multiple_choice task has the metric '{metric}', expected acc" in message
    assert "cannot be read as a task" in with_yaml("task: choice_task", "task: [")

    for wrong, words in (
        ({"gold": 9}, "record 3: its answer is 9, which is none of its choices"),
        ({"gold": ""}, "record 3: it has no answer"),
    ):
        lines = [item | (wrong if place == 2 else {}) for place, item in enumerate(items)]
        text = "".join(json.dumps({**one, "gold": str(one["gold"])}) + "\n" for one in lines)
        data.write_text(text, encoding="utf-8")
        message = refused(str(file))
        assert str(file) in message
        assert words in message


def test_entries_that_make_no_sense_are_one_line(tmp_path: Path) -> None:
    file = str(write_mmlu(tmp_path, 3))
    assert "num_fewshot is 2, and there are 0 examples" in refused(
        {"name": "x", "file": file, "num_fewshot": 2}
    )
    assert "two entries bring the task 'x'" in refused(
        {"name": "x", "file": file}, {"name": "y", "file": str(rename_task(tmp_path, "x"))}
    )
    other = tmp_path / "items.txt"
    other.write_text("?", encoding="utf-8")
    assert "items.txt is of no known kind" in refused({"name": "x", "file": str(other)})


def rename_task(folder: Path, name: str) -> Path:
    """A task YAML whose task has a name."""
    file = write_choice_task(folder, demo_texts()[:4])
    file.write_text(file.read_text().replace("task: choice_task", f"task: {name}"))
    return file
