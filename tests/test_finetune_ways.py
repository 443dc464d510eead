"""New tokens, and an adapter that begins as a part of the weights, through steps and store."""

from importlib import import_module
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from tests.support.processes import newest


def run_step(name: str, config: Path, *arguments: str, code: int = 0) -> str:
    command = import_module(f"steps.{name}").main
    result = CliRunner().invoke(command, ["--config", str(config), *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("training.tokenizer.new_tokens.genes=3", "tokens added to the vocabulary: "),
        ("training.qlora.initialization=pissa", "twice qlora.r; one half stays as it began"),
    ],
    ids=["new tokens", "pissa"],
)
def test_a_version_is_checked_in_a_fresh_process_and_evaluated(
    store: str, tiny_config: Path, overrides: str, words: str
) -> None:
    client = mlflow.MlflowClient()
    run_step("preprocess", tiny_config)
    assert words in run_step("finetune", tiny_config, "--overrides", overrides)
    version = client.get_model_version_by_alias("tiny", "challenger")
    assert version.run_id == newest(client, "finetune").info.run_id
    run_step("evaluate", tiny_config)
    assert newest(client, "evaluate").data.metrics["test/bits_per_byte"] > 0
