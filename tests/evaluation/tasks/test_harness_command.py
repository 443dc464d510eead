"""Our figures beside those of the harness' own command, on one model and one local task."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.config.measurement_sections import Evaluation
from steps.config.sections import Hardware, Model
from steps.evaluation.tasks.definitions import prepare_tasks
from steps.evaluation.tasks.run import run_tasks
from steps.models.adapted import AdaptedModel, load_base
from steps.models.sources import resolve_base
from tests.support.project import demo_texts
from tests.support.task_files import write_choice_task, write_open_task


def command(folder: Path, model: str, tasks: list[str]) -> dict[str, Any]:
    """What `lm_eval` writes down of a run: results, and a row an item by task."""
    out = folder / "out"
    subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", model),
            *("--include_path", str(folder), "--tasks", ",".join(tasks), "--device", "cpu"),
            *("--output_path", str(out), "--log_samples"),
        ],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    (results,) = out.rglob("results_*.json")
    content: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    content["rows"] = {
        task: [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
        for task in tasks
        for found in out.rglob(f"samples_{task}_*.jsonl")
    }
    return content


def loaded(folder: Path, adapter: Path | None) -> AdaptedModel:
    """A base as the evaluate step loads it, and an adapter on it."""
    from peft import PeftModel

    adapted = load_base(resolve_base(Model(name=str(folder))), hardware=Hardware(bf16=False))
    if adapter is not None:
        adapted.model = PeftModel.from_pretrained(adapted.model, str(adapter)).eval()
    return adapted


def save_adapter(base: Path, folder: Path) -> Path:
    """An adapter with random weights, which changes what its base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("side", ["base", "adapter"])
def test_figures_are_those_of_the_harness_command_to_the_last_digit(
    tmp_path: Path, tiny_llama_folder: Path, side: str
) -> None:
    files = [
        write_choice_task(tmp_path, demo_texts()[:24], shots=2),
        write_open_task(tmp_path, demo_texts()[:4]),
    ]
    model = f"pretrained={tiny_llama_folder},dtype=float32"
    adapter = None
    if side == "adapter":
        adapter = save_adapter(tiny_llama_folder, tmp_path / "adapter")
        model += f",peft={adapter}"
    entries = Evaluation(tasks=[str(file) for file in files]).tasks
    prepared = prepare_tasks(entries, objective="causal", model="tiny")
    adapted = loaded(tiny_llama_folder, adapter)
    ours = run_tasks(adapted, prepared, [], seed=0, resamples=100)

    theirs = command(tmp_path, model, ["choice_task", "open_task"])
    for metric in ("choice_task/acc", "choice_task/acc_norm", "open_task/exact_match"):
        task, _, name = metric.partition("/")
        assert ours.metrics[f"task/{metric}"] == theirs["results"][task][f"{name},none"]
    choice, said = (ours.items[ours.items["task"] == task] for task in theirs["rows"])
    rows = theirs["rows"]
    assert list(choice["loglikelihoods"]) == [
        [float(reply[0]) for reply in row["filtered_resps"]] for row in rows["choice_task"]
    ]
    assert list(choice["acc"]) == [row["acc"] for row in rows["choice_task"]]
    assert 0 < choice["acc"].mean() < 1
    assert list(said["choice"]) == [row["filtered_resps"][0] for row in rows["open_task"]]
    assert list(choice["item_hash"]) == [row["doc_hash"] for row in rows["choice_task"]]
