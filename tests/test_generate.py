"""The generate step on a whole store, on the base alone, and on what cannot be asked."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner

from steps.generate import main
from tests.support.processes import newest
from tests.support.stores import StoredStore


def run(config: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["--config", str(config), *arguments])
    assert result.exit_code == code, result.output
    return result.output


def rows(client: mlflow.MlflowClient, run_id: str, folder: Path) -> list[dict[str, Any]]:
    file = Path(client.download_artifacts(run_id, "generations.jsonl", str(folder)))
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def served(client: mlflow.MlflowClient, folder: Path, prompt: str, tokens: int) -> str:
    """What a registered model answers that is made of the champion's adapter today."""
    from steps.models.adapted import load_adapted
    from steps.tracking.registry.served_model import AdaptedLanguageModel

    version = client.get_model_version_by_alias("tiny", "champion")
    adapter = client.download_artifacts(version.run_id, "adapter", str(folder))
    model = AdaptedLanguageModel()
    model.adapted = load_adapted(Path(adapter))
    (answer,) = model.predict(None, [prompt], {"max_new_tokens": tokens})
    return str(answer)


def test_the_champion_and_its_base_write_side_by_side(there: StoredStore, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(there.uri)
    length = f"generate.max_new_tokens={there.facts.new_tokens}"
    said = run(there.config, "--prompt", there.facts.prompt, "--overrides", length)
    assert "model: tiny/1" in said
    made = newest(client, "generate")
    assert made.info.status == "FINISHED"
    assert made.data.tags["forge.model_uri"] == "models:/tiny/1"
    assert made.data.params["generate.max_new_tokens"] == str(there.facts.new_tokens)
    (row,) = rows(client, made.info.run_id, tmp_path)
    assert row["model"] == served(client, tmp_path, there.facts.prompt, there.facts.new_tokens)
    assert row["base"] != row["model"]
    page = client.download_artifacts(made.info.run_id, "generations.html", str(tmp_path))
    assert "models:/" not in Path(page).read_text(encoding="utf-8")


def test_a_file_of_prompts_is_asked_of_the_base_alone(
    store: str, client: mlflow.MlflowClient, tiny_config: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("The gene\n\nVariants in BRCA1\n", encoding="utf-8")
    asked = ("--model", "base", "--file", str(tmp_path / "p.txt"))
    said = run(tiny_config, *asked, "--overrides", "generate.max_new_tokens=4")
    assert "model:" not in said
    found = rows(client, newest(client, "generate").info.run_id, tmp_path)
    assert [row["id"] for row in found] == ["1", "3"]
    assert all(row["base"] and "model" not in row for row in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to ask"),
        (("--prompt", "a", "--file", "b"), "both given"),
        (("--file", "no-such.txt"), "'no-such.txt' is not a file"),
        (("--prompt", "The gene"), "no version of 'tiny' has the alias champion"),
        (("--prompt", "The gene", "--model", "models:/tiny/7"), "'models:/tiny/7' is not in the"),
        (("--prompt", "The gene", "--overrides", "generate.top_p=2"), "generate.top_p"),
    ],
)
def test_bad_input_is_one_line(
    store: str, tiny_config: Path, arguments: tuple[str, ...], words: str
) -> None:
    said = run(tiny_config, *arguments, code=2)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert words in line
