"""Tasks asked of a loaded model: rows, intervals, and a model that is left as it was."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steps.config.measurement_sections import Evaluation
from steps.config.sections import Hardware, Model
from steps.evaluation.tasks.definitions import prepare_tasks
from steps.evaluation.tasks.run import TaskResults, asked_by_harness, run_tasks
from steps.models.adapted import AdaptedModel, load_base
from steps.models.sources import resolve_base
from tests.support.project import demo_texts
from tests.support.task_files import write_choice_task, write_open_task, write_pubmedqa


@pytest.fixture(scope="module")
def adapted(tiny_llama_folder: Path) -> AdaptedModel:
    """A tiny causal model."""
    base = resolve_base(Model(name=str(tiny_llama_folder)))
    return load_base(base, hardware=Hardware(bf16=False))


def asked(adapted: AdaptedModel, *entries: Any, learned: Any = ()) -> TaskResults:
    tasks = Evaluation(tasks=entries).tasks
    prepared = prepare_tasks(tasks, objective="causal", model="tiny")
    return run_tasks(adapted, prepared, learned, seed=0, resamples=200)


def test_each_item_has_a_row_that_its_figures_can_be_made_of(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    choice = write_choice_task(tmp_path, demo_texts()[:20])
    file, truth = write_pubmedqa(tmp_path, 12)
    pubmedqa = {"name": "pubmedqa", "file": str(file), "ground_truth": str(truth)}
    found = asked(adapted, str(choice), pubmedqa | {"limit": 5})
    items = found.items
    assert items.groupby("task").size().to_dict() == {"choice_task": 20, "pubmedqa": 5}
    for task, rows in items.groupby("task"):
        for metric in ("acc", "acc_norm"):
            name = f"task/{task}/{metric}"
            if name in found.metrics:
                assert found.metrics[name] == rows[metric].mean()
                low, high = (found.metrics[f"{name}_ci_{end}"] for end in ("low", "high"))
                assert 0 <= low <= found.metrics[name] <= high <= 1
                assert low < high
    medical = items[items["task"] == "pubmedqa"]
    assert list(medical["pmid"]) == list(medical["item_id"]) == ["100", "101", "102", "103", "104"]
    assert list(medical["gold"]) == ["yes", "no", "maybe", "yes", "no"]
    for _, row in medical.iterrows():
        likeliest = max(range(3), key=lambda place: row["loglikelihoods"][place])
        assert row["choice"] == ("yes", "no", "maybe")[likeliest]
        assert row["acc"] == (row["choice"] == row["gold"])
    assert medical["acc_norm"].isna().all()
    assert items[items["task"] == "choice_task"]["pmid"].isna().all()
    stored = tmp_path / "tasks.parquet"
    items.to_parquet(stored, index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(stored), items, check_dtype=False)


def test_contaminated_items_are_counted_and_left_out_of_the_clean_figure(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    texts = demo_texts()[:20]
    entry = str(write_choice_task(tmp_path, texts))
    found = asked(adapted, entry, learned=iter(texts[:6]))
    items = found.items
    assert list(items["contaminated"]) == [True] * 6 + [False] * 14
    assert found.metrics["task/choice_task/contaminated"] == 6
    assert found.metrics["task/choice_task/items"] == 20
    assert found.metrics["task/choice_task/acc_clean"] == items["acc"][6:].mean()
    assert found.metrics["task/choice_task/acc"] == items["acc"].mean()
    # Where all of them are, there is no clean figure.
    all_known = asked(adapted, entry, learned=texts).metrics
    assert "task/choice_task/acc_clean" not in all_known
    assert all_known["task/choice_task/acc"] == found.metrics["task/choice_task/acc"]


def test_open_answers_are_written_and_prompts_that_do_not_fit_are_counted(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    found = asked(adapted, str(write_open_task(tmp_path, demo_texts()[:3])))
    assert found.metrics["task/open_task/cut"] == 0
    assert (found.items["choice"].str.len() > 0).all()
    assert found.items["loglikelihoods"].map(len).sum() == 0
    long = [f"{text} " * 40 for text in demo_texts()[:3]]
    folder = tmp_path / "long"
    file = write_choice_task(folder, long)
    cut = file.read_text(encoding="utf-8").replace("{{question}}", "{{question * 40}}")
    file.write_text(cut, encoding="utf-8")
    assert asked(adapted, str(file)).metrics["task/choice_task/cut"] == 3


def test_the_model_and_its_tokenizer_are_left_as_they_were(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = resolve_base(Model(name=str(tiny_llama_folder)))
    adapted = load_base(base, hardware=Hardware(bf16=False))
    # A head of its own beside the embeddings, which tying would undo.
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapted.model = get_peft_model(adapted.model, settings).eval()
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "modules_to_save" in name or "lora_B" in name:
                weight.add_(torch.randn_like(weight))
    adapted.model.config.tie_word_embeddings = True
    adapted.tokenizer.pad_token = None
    before = {name: weight.clone() for name, weight in adapted.model.state_dict().items()}
    tied = adapted.model.tie_weights
    asked(adapted, str(write_choice_task(tmp_path, demo_texts()[:4])))
    after = adapted.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert adapted.model.tie_weights == tied
    assert adapted.tokenizer.pad_token is None


def test_the_harness_reads_the_loaded_model_and_no_other(adapted: AdaptedModel) -> None:
    with asked_by_harness(adapted) as peer:
        assert peer.model is adapted.model
