"""A registered causal model answers over HTTP; a masked one: tests/test_masked_chain.py."""

from pathlib import Path

import mlflow
import pytest

from tests.support.processes import step
from tests.support.served_model import ask, served


@pytest.mark.slow
def test_a_served_causal_model_continues_texts_by_as_many_tokens_as_are_asked_for(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    given = ("--config", str(tiny_config))
    step("preprocess", tmp_path / "one", *given)
    step("finetune", tmp_path / "two", *given, "--alias", "champion")
    texts = ["The BRCA1 gene is", "Variants of TP53"]
    loaded = mlflow.pyfunc.load_model("models:/tiny@champion")
    answers = []
    with served("models:/tiny@champion", tmp_path) as address:
        for count in (2, 12):
            params = {"max_new_tokens": count}
            status, answer = ask(address, {"inputs": texts, "params": params})
            assert status == 200, answer
            assert answer["predictions"] == loaded.predict(texts, params=params)
            answers.append(answer["predictions"])
    assert all(len(short) < len(long) for short, long in zip(*answers, strict=True))
