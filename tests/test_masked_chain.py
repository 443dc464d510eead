"""A masked model from papers to a served answer, and what stops a training."""

from pathlib import Path

import mlflow
import pytest

from tests.support.processes import newest, step
from tests.support.served_model import ask, served


@pytest.fixture
def masked_config(tiny_config: Path, tiny_bert_folder: Path, tmp_path: Path) -> Path:
    """The tiny configuration, for a masked model."""
    file = tmp_path / "masked.yaml"
    file.write_text(
        f"""
extends: {tiny_config.name}
training:
  model: {{name: {tiny_bert_folder}}}
  hyperparameters: {{learning_rate: 3e-2}}
  evaluation: {{pseudo_likelihood_tokens: 4}}
  comparison:
    metric: mlm_loss
    guards: [{{metric: general_mlm_loss, margin: 1000}}]
""",
        encoding="utf-8",
    )
    return file


def test_a_masked_model_goes_from_papers_to_a_promoted_version_that_fills_masks(
    store: str, masked_config: Path, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    given = ("--config", str(masked_config))
    step("preprocess", tmp_path / "one", *given)
    step("finetune", tmp_path / "two", *given)
    trained = newest(client, "finetune")
    assert trained.info.status == "FINISHED"
    assert trained.data.tags["forge.objective"] == "masked"
    assert {"validation/mlm_loss", "validation/mlm_accuracy"} <= trained.data.metrics.keys()
    assert "validation/bits_per_byte" not in trained.data.metrics
    assert trained.data.params["masking.entity_probability"] == "0.3"

    said = step("ab_compare", tmp_path / "three", *given)
    assert newest(client, "ab_compare").data.tags["forge.decision"] == "promote", said
    scored = newest(client, "evaluate").data.metrics
    assert {"test/mlm_loss", "test/mlm_accuracy", "test/pseudo_bits_per_byte"} <= scored.keys()
    assert {"test/gene_cloze_mrr", "test/gene_cloze_ece", "test/fact_cloze_mrr"} <= scored.keys()
    assert "test/memorised_share" not in scored

    loaded = mlflow.pyfunc.load_model("models:/tiny@champion")
    assert loaded.unwrap_python_model().probe_difference() == 0.0
    one, two = loaded.predict(["The [MASK] gene.", "[MASK] and [MASK] cells."])
    assert len(one.split(", ")) == 5
    assert len(two.split(" | ")) == 2
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"has 0 \[MASK\]"):
        loaded.predict(["The BRCA1 gene."])


@pytest.mark.slow
def test_a_served_masked_model_answers_and_refuses_a_text_without_a_mask(
    store: str, masked_config: Path, tmp_path: Path
) -> None:
    given = ("--config", str(masked_config))
    step("preprocess", tmp_path / "one", *given)
    step("finetune", tmp_path / "two", *given)
    with served("models:/tiny@challenger", tmp_path) as address:
        status, answer = ask(address, {"inputs": ["The [MASK] gene is mutated."]})
        assert status == 200
        assert len(answer["predictions"][0].split(", ")) == 5
        status, refusal = ask(address, {"inputs": ["The BRCA1 gene is mutated."]})
        assert status == 400
        assert "expected at least one mask" in refusal


def test_a_diverging_run_fails_with_its_knob_and_leaves_its_last_good_checkpoint(
    store: str, masked_config: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    given = ("--config", str(masked_config))
    step("preprocess", tmp_path / "one", *given)
    # Reported every 50 steps, saved at each: only a look before saving can find the NaN.
    absurd = (
        "training.hyperparameters.learning_rate=1e30 training.hyperparameters.max_grad_norm=1e30 "
        "training.scheduler.type=linear training.scheduler.num_warmup_steps=25 "
        "training.logging.log_steps=50 training.logging.save_steps=1 "
        "training.logging.eval_strategy=no"
    )
    said = step("finetune", tmp_path / "two", *given, "--overrides", absurd, code=2)
    error = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "at step" in error
    assert "lower training.hyperparameters.learning_rate (now 1e+30)" in error
    client = mlflow.MlflowClient()
    run = newest(client, "finetune")
    assert run.info.status == "FAILED"
    assert run.data.tags["forge.exit_code"] == "2"
    assert not client.search_model_versions("name='tiny'")
    stored = [f.path for f in client.list_artifacts(run.info.run_id, "checkpoints")]
    assert stored
    for path in stored:
        folder = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values()), path
