"""A registered causal model answers over HTTP; a masked one: tests/test_masked_chain.py."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from transformers import BertConfig

from steps.models.adapted import AdaptedModel
from steps.models.tokenizer import load_tokenizer, start_token
from steps.papers.text import PaperText
from steps.tracking.registry.served_model import AdaptedLanguageModel
from steps.training.packing import causal_windows
from tests.support.processes import step
from tests.support.served_model import ask, served
from tests.support.tokenizer_families import CAUSAL_FAMILIES, MASKED_FAMILIES

TEXT = "Loss of BRCA1 drives growth"


class Listening:
    """What `generate` and the model itself are asked with; it writes what it is told to."""

    def __init__(self, written: list[int], logits: Any = None) -> None:
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.config = BertConfig(num_hidden_layers=1, max_position_embeddings=64)
        self.asked: dict[str, Any] = {}
        self._written, self._logits = written, logits

    def generate(self, **asked: Any) -> Any:
        import torch

        self.asked = asked
        return torch.cat([asked["input_ids"], torch.tensor([self._written])], dim=1)

    def __call__(self, **asked: Any) -> Any:
        self.asked = asked
        return SimpleNamespace(logits=self._logits)


def serving(model: Any, tokenizer: Any, objective: Any) -> AdaptedLanguageModel:
    """The served model around these."""
    import torch

    answering = AdaptedLanguageModel()
    answering.adapted = AdaptedModel(model, tokenizer, objective, torch.float32, "cpu", {})
    return answering


@pytest.mark.parametrize("name", CAUSAL_FAMILIES)
def test_a_served_prompt_opens_as_the_papers_of_the_training(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(CAUSAL_FAMILIES[name].folder(tmp_path))
    written = tokenizer(" CAT!", add_special_tokens=False).input_ids
    model = Listening([*written, tokenizer.eos_token_id])
    answering = serving(model, tokenizer, "causal")
    (answer,) = answering.predict(None, [TEXT])
    paper = PaperText("p", TEXT, (), (), (), None)
    trained = causal_windows([paper], tokenizer, 512, 1)[0].tokens.tolist()
    assert model.asked["input_ids"].tolist() == [trained[:-1]]
    assert model.asked["attention_mask"].tolist() == [[1] * (len(trained) - 1)]
    assert model.asked["eos_token_id"] == [tokenizer.eos_token_id]
    assert answer.replace(" ", "") == "CAT!"
    # Whoever writes the opening does not get it twice.
    answering.predict(None, [tokenizer.convert_ids_to_tokens(start_token(tokenizer)) + TEXT])
    assert model.asked["input_ids"][0].tolist().count(start_token(tokenizer)) == 1


@pytest.mark.parametrize("name", [n for n in MASKED_FAMILIES if n not in ("t5-like", "esm")])
def test_a_served_mask_stands_between_the_special_tokens(name: str, tmp_path: Path) -> None:
    import torch

    tokenizer = load_tokenizer(MASKED_FAMILIES[name].folder(tmp_path))
    # As the word and its space are hidden in the training.
    tokens = tokenizer(f"Loss of{tokenizer.mask_token} drives growth").input_ids
    model = Listening([], torch.zeros(1, len(tokens), len(tokenizer)))
    (answer,) = serving(model, tokenizer, "masked").predict(
        None, [f"Loss of {tokenizer.mask_token} drives growth"]
    )
    assert model.asked["input_ids"].tolist() == [tokens]
    assert " | " not in answer


@pytest.mark.slow
def test_a_model_without_the_right_tokens_is_refused_before_its_weights_are_loaded(
    store: str, tiny_config: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    given = ("--config", str(tiny_config))
    step("preprocess", tmp_path / "one", *given)
    endless, larger = tmp_path / "endless", tmp_path / "larger"
    for folder in (endless, larger):
        shutil.copytree(tiny_llama_folder, folder)
        # Weights that nobody can load.
        (folder / "model.safetensors").write_bytes(b"no weights")
    names = json.loads((endless / "tokenizer_config.json").read_text())
    kept = {k: v for k, v in names.items() if k not in ("bos_token", "eos_token")}
    (endless / "tokenizer_config.json").write_text(json.dumps(kept))
    content = json.loads((endless / "config.json").read_text())
    stated = {**content, "bos_token_id": 300, "eos_token_id": 301}
    (endless / "config.json").write_text(json.dumps(stated))
    (endless / "generation_config.json").unlink()
    (larger / "config.json").write_text(json.dumps({**content, "vocab_size": 598}))
    for folder, reason in ((endless, "neither a BOS nor an EOS"), (larger, "600 tokens")):
        model = ("--overrides", f"training.model.name={folder}")
        said = step("finetune", tmp_path / "two", *given, *model, code=2)
        assert sum(reason in line for line in said.splitlines()) == 1, said
    assert "the model 598" in said


@pytest.mark.slow
def test_a_served_causal_model_continues_texts_by_as_many_tokens_as_are_asked_for(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    given = ("--config", str(tiny_config))
    step("preprocess", tmp_path / "one", *given)
    step("finetune", tmp_path / "two", *given)
    texts = ["The BRCA1 gene is", "Variants of TP53"]
    loaded = mlflow.pyfunc.load_model("models:/tiny@challenger")
    answers = []
    with served("models:/tiny@challenger", tmp_path) as address:
        for count in (2, 12):
            params = {"max_new_tokens": count}
            status, answer = ask(address, {"inputs": texts, "params": params})
            assert status == 200, answer
            assert answer["predictions"] == loaded.predict(texts, params=params)
            answers.append(answer["predictions"])
    assert all(len(short) < len(long) for short, long in zip(*answers, strict=True))
