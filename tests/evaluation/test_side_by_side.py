"""Base and adapted model after the same prompts, on tiny versions of every kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.generate_section import Generate
from steps.config.sections import Hardware, Model, Training
from steps.errors import UserError
from steps.evaluation.prompts import AskedPrompt
from steps.evaluation.side_by_side import Answered, ask_both, base_is_in
from steps.messages import Message
from steps.models.tokenizer import load_tokenizer
from tests.support.project import ROOT
from tests.support.released_models import save_version

GENE, VARIANT = AskedPrompt("1", "The gene"), AskedPrompt("2", "Loss-of-function variants impair")
QUESTION = AskedPrompt("q", "Which?", (Message("user", "Which gene?"),))


def training_of(base: Path, **generate: Any) -> Training:
    return Training(
        model=Model(name=str(base)),
        hardware=Hardware(device="cpu", bf16=False),
        generate=Generate(**{"max_new_tokens": 8, **generate}),
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, tiny_llama_folder: Path) -> Path:
    """The folder of a LoRA version of the tiny LLaMA."""
    folder = tmp_path_factory.mktemp("version") / "adapter"
    save_version(folder, tiny_llama_folder)
    return folder


@pytest.fixture(scope="module")
def masked_version(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "adapter"
    save_version(folder, tiny_bert_folder)
    return folder


@pytest.fixture(scope="module")
def answering_version(tmp_path_factory: pytest.TempPathFactory, tiny_llama_folder: Path) -> Path:
    """A version that was trained to answer by the plain template."""
    folder = tmp_path_factory.mktemp("answering") / "adapter"
    save_version(folder, tiny_llama_folder)
    description = json.loads((folder / "base.json").read_text())
    (folder / "base.json").write_text(json.dumps({**description, "task": "instruction"}))
    tokenizer = load_tokenizer(folder)
    plain = ROOT / "configs" / "chat_templates" / "plain.jinja"
    tokenizer.chat_template = plain.read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def side(answered: list[Answered], name: str) -> list[Any]:
    return [one.written[name] for one in answered]


def asked_alone(base: Path, *prompts: AskedPrompt, **generate: Any) -> list[Any]:
    """What the base writes that is loaded by itself."""
    answered = ask_both(training_of(base, **generate), None, prompts)
    assert all("model" not in one.written for one in answered)
    return side(answered, "base")


@pytest.mark.parametrize("generate", [{}, {"temperature": 0.9, "num_samples": 2}])
def test_the_adapter_switched_off_writes_what_the_base_alone_writes(
    version: Path, tiny_llama_folder: Path, generate: dict[str, Any]
) -> None:
    prompts = [GENE, VARIANT]
    answered = ask_both(training_of(tiny_llama_folder, **generate), version, prompts)
    assert base_is_in(version)
    assert side(answered, "base") == asked_alone(tiny_llama_folder, *prompts, **generate)
    assert side(answered, "model") != side(answered, "base")
    assert all(len(texts) == generate.get("num_samples", 1) for texts in side(answered, "model"))
    again = ask_both(training_of(tiny_llama_folder, **generate), version, prompts[::-1])
    assert again[::-1] == answered


@pytest.mark.parametrize(
    "trained",
    [
        {"method": "full", "quantization": {"load_in_4bit": False}},
        {"bias": "all"},
        {"new_tokens": ("BRCA1", "p53")},
    ],
    ids=["all weights", "biases", "new tokens"],
)
def test_a_base_that_is_not_in_the_model_is_loaded_after_it(
    tmp_path: Path, tiny_llama_folder: Path, trained: dict[str, Any]
) -> None:
    save_version(tmp_path / "adapter", tiny_llama_folder, **trained)
    assert not base_is_in(tmp_path / "adapter")
    prompts = [GENE, AskedPrompt("3", "Variants in BRCA1 and p53")]
    answered = ask_both(training_of(tiny_llama_folder), tmp_path / "adapter", prompts)
    assert side(answered, "base") == asked_alone(tiny_llama_folder, *prompts)
    assert side(answered, "model") != side(answered, "base")


def test_a_masked_model_fills_masks(masked_version: Path, tiny_bert_folder: Path) -> None:
    prompts = [AskedPrompt("1", "the [MASK] gene is [MASK]."), AskedPrompt("2", "[MASK] cells")]
    answered = ask_both(training_of(tiny_bert_folder), masked_version, prompts)
    assert [len(masks) for masks in side(answered, "model")] == [2, 1]
    assert all(len(words) == 5 for masks in side(answered, "base") for words in masks)
    alone = asked_alone(tiny_bert_folder, *prompts)
    assert side(answered, "base") == alone
    assert side(answered, "model") != alone


def test_a_model_that_answers_is_asked_by_its_template(
    answering_version: Path, tiny_llama_folder: Path
) -> None:
    plain = AskedPrompt("1", "Which gene?")
    answered = ask_both(training_of(tiny_llama_folder), answering_version, [plain, QUESTION])
    # A text is a question of the user's.
    assert answered[0].written == answered[1].written
    continued = asked_alone(tiny_llama_folder, plain)
    assert side(answered, "base")[0] != continued[0]


def test_a_conversation_and_a_text_may_stand_in_one_file_where_there_is_a_template(
    version: Path, tiny_llama_folder: Path
) -> None:
    training = training_of(tiny_llama_folder)
    with pytest.raises(UserError, match="has no chat template"):
        ask_both(training, version, [GENE, QUESTION])
    named = training.instructions.model_copy(
        update={"chat_template": "configs/chat_templates/plain.jinja"}
    )
    training = training.model_copy(update={"instructions": named})
    both = ask_both(training, version, [GENE, QUESTION])
    (alone,) = ask_both(training, version, [GENE])
    assert both[0] == alone
    assert all(isinstance(text, str) for text in both[1].written["model"])


def test_a_long_text_is_cut_at_its_beginning_and_a_long_question_is_refused(
    version: Path, answering_version: Path, masked_version: Path, tiny_llama_folder: Path
) -> None:
    words = "variants in genes impair repair " * 400
    training = training_of(tiny_llama_folder)
    long, tail = AskedPrompt("1", words), AskedPrompt("2", words[-400:])
    first, second = ask_both(training, version, [long, tail])
    assert first.cut > 0
    assert second.cut == 0
    assert first.written["base"][0]
    with pytest.raises(UserError, match="shorten it"):
        ask_both(training, answering_version, [long])
    with pytest.raises(UserError, match="shorten it"):
        ask_both(training, masked_version, [AskedPrompt("1", f"{words} [MASK]")])
    with pytest.raises(UserError, match="max_new_tokens is 100000"):
        ask_both(training_of(tiny_llama_folder, max_new_tokens=100_000), version, [GENE])


def test_what_cannot_be_asked_is_refused_before_weights_are_loaded(
    masked_version: Path, tiny_bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr("steps.evaluation.side_by_side.load_adapted", fail)
    monkeypatch.setattr("steps.evaluation.side_by_side.load_base", fail)
    training = training_of(tiny_bert_folder)
    for adapter in (masked_version, None):
        with pytest.raises(UserError, match=r"\('The gene'\) has no \[MASK\]"):
            ask_both(training, adapter, [GENE])
        with pytest.raises(UserError, match="is a conversation"):
            ask_both(training, adapter, [QUESTION])


def test_the_state_of_torchs_generators_does_not_change(
    version: Path, tiny_llama_folder: Path
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ask_both(training_of(tiny_llama_folder, temperature=1.0), version, [GENE])
    assert torch.equal(torch.rand(1), expected)
