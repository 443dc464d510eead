"""What is said of tasks before they are asked is about what the harness then sends."""

from pathlib import Path
from typing import Any

import pytest

from steps.config.measurement_sections import Evaluation
from steps.evaluation.tasks.definitions import prepare_tasks
from steps.evaluation.tasks.workload import BYTES_OF_A_TOKEN, task_phases
from steps.evaluation.workload import Rates, Workload
from tests.support.project import demo_texts
from tests.support.task_files import write_choice_task, write_mmlu, write_open_task


def prepared(*entries: Any) -> list[Any]:
    tasks = Evaluation(tasks=entries).tasks
    return prepare_tasks(tasks, objective="causal", model="tiny/1")


def test_what_is_read_is_about_what_the_harness_sends(tmp_path: Path) -> None:
    mmlu = {"name": "mmlu_medical_genetics", "file": str(write_mmlu(tmp_path, 70))}
    shots = write_choice_task(tmp_path / "choice", demo_texts()[:9], shots=2)
    entries = prepared(mmlu, str(shots))
    for phase, entry in zip(task_phases(entries), entries, strict=True):
        (task,) = entry.tasks.values()
        task.build_all_requests()
        sent = sum(len("".join(map(str, one.args)).encode()) for one in task.instances)
        assert phase.read == pytest.approx(sent / BYTES_OF_A_TOKEN, rel=0.25)
        assert phase.parts == len(task.eval_docs)
        assert phase.written == 0


def test_a_limit_counts_and_what_is_written_too(tmp_path: Path) -> None:
    file = write_open_task(tmp_path, demo_texts()[:6])
    (whole,), (some,) = (
        task_phases(prepared({"file": str(file), "limit": limit})) for limit in (None, 2)
    )
    assert (whole.parts, some.parts) == (6, 2)
    assert whole.written == 3 * some.written > 0


def test_tasks_are_not_shared_out_and_not_cut(tmp_path: Path) -> None:
    phases = task_phases(prepared(str(write_choice_task(tmp_path, demo_texts()[:4]))))
    alone, several = (Workload(phases, Rates(10.0), processes=count) for count in (1, 4))
    assert alone.total() == several.total() == phases[0].read / 10.0
    assert several.cuts_within(0.0) == {}
    assert "task choice task (4 items)" in alone.description()
