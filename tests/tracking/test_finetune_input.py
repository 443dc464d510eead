"""finetune refuses what it cannot train on in one line, before it loads weights."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner

from steps import finetune, preprocess
from steps.config.sections import Hardware, Mlflow, Model, Qlora, Training
from steps.errors import UserError
from steps.models.adapted import AdaptedModel, describe, save_adapted
from steps.models.adapters import add_adapter
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.tracking.datasets import StoredDataset
from steps.tracking.job import papers_of
from steps.tracking.registry.versions import RegistrationError, register
from steps.tracking.runs import step_run


def prepare(tiny_config: Path, overrides: str = "") -> Path:
    """Run preprocess; gives the folder of its dataset in the store."""
    done = CliRunner().invoke(
        preprocess.main, ["--config", str(tiny_config), "--overrides", overrides]
    )
    assert done.exit_code == 0, done.output
    run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
    return Path(run.info.artifact_uri.removeprefix("file://")) / "dataset"


def refusal(tiny_config: Path, overrides: str = "") -> str:
    said = CliRunner().invoke(
        finetune.main, ["--config", str(tiny_config), "--overrides", overrides]
    )
    assert said.exit_code == 2, said.output
    errors = [line for line in said.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, said.output
    run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["forge.error"] in errors[0]
    assert not mlflow.MlflowClient().search_registered_models()
    return errors[0]


def test_a_dataset_that_changed_after_it_was_logged_is_refused(
    store: str, tiny_config: Path
) -> None:
    folder = prepare(tiny_config)
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    right = content["dataset_digest"]
    arrow = next((folder / "train").glob("*.arrow"))
    rows = arrow.read_bytes()

    arrow.write_bytes(rows.replace(b"mutation", b"mutatiom"))
    assert "the artifact was changed after it was logged" in refusal(tiny_config)
    arrow.write_bytes(rows[: len(rows) // 2])
    assert "run preprocess again" in refusal(tiny_config)
    arrow.write_bytes(rows)
    content["dataset_digest"] = right[:-4] + "0000"
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert "its manifest says" in refusal(tiny_config)


def test_an_empty_training_split_is_refused_with_the_way_out(tmp_path: Path) -> None:
    stored = StoredDataset("run", "sha256:0", tmp_path, {"splits": {"train": {"papers": 0}}})
    with pytest.raises(UserError, match="no paper in its train split.*run preprocess again"):
        papers_of(stored, "train", ("title",))


def test_an_empty_validation_split_is_allowed(tmp_path: Path) -> None:
    manifest = {"splits": {"validation": {"papers": 0}}}
    stored = StoredDataset("run", "sha256:0", tmp_path, manifest)
    assert papers_of(stored, "validation", ("title",)) == []


def test_an_output_folder_that_cannot_be_written_is_refused(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    prepare(tiny_config)
    (tmp_path / "taken").write_text("")
    message = refusal(tiny_config, f"training.output.output_dir={tmp_path}/taken")
    assert "training.output.output_dir" in message
    assert "taken" in message


@pytest.mark.slow
def test_a_model_that_fails_its_check_is_not_registered_and_says_so(
    store: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    training = Training(
        model=Model(name=str(tiny_llama_folder), max_length=128),
        qlora=Qlora(method="lora", r=4),
        hardware=Hardware(bf16=False),
        mlflow=Mlflow(experiment_name="check", registered_model_name="check"),
    )
    base = resolve_base(training.model)
    model: Any = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
    model = add_adapter(model, training.qlora, base.objective)
    tokenizer = load_tokenizer(base.folder)
    description = describe(training, base, torch.float32)
    adapted = AdaptedModel(model, tokenizer, base.objective, torch.float32, "cpu", description)
    adapter = tmp_path / "adapter"
    save_adapted(adapter, model, tokenizer, description, adapted)

    # The adapter is damaged on its way from the trainer to the store.
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: w + 0.5 for name, w in weights.items()}, file, {"format": "pt"})
    client = mlflow.MlflowClient()
    with (
        pytest.raises(RegistrationError, match="probe logits differ by"),
        step_run("finetune", training, verbose=False) as run,
    ):
        register(run, adapter, training, "challenger", {"train/loss": 2.0})
    assert not client.search_registered_models()
    assert [m.status for m in client.search_logged_models([run.experiment_id])] == ["FAILED"]
    assert client.get_run(run.id).info.status == "FAILED"
