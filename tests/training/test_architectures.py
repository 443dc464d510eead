"""The matrix: every listed class trains, scores, is saved and served as transformers has it.

What a class cannot do is refused by name; `docs/models.md` is written from the same trials
(`tools/models_page.py`).
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.config.sections import Training
from steps.errors import UserError
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.models.adapted import (
    AdaptedModel,
    describe,
    load_adapted,
    probe_difference,
    save_adapted,
)
from steps.models.layout import find_layout
from steps.models.losses import IGNORED
from steps.models.sources import resolve_base
from steps.training.trainer import ModelTrainer
from tests.support.architectures import ARCHITECTURES, Architecture
from tests.support.project import ROOT
from tests.support.tiny_architectures import save
from tests.support.tiny_runs import build_trainer, papers, training_by_method

PAPERS = papers(6)
# Refused by name, each with what its line has to say.
REFUSED = {
    # Its landmarks need rows of one length, and average padding in.
    "nystromformer": "NystromformerForMaskedLM cannot read a document of",
}
# Experts as 3-D parameters, of which peft has LoRA alone.
REFUSED_BY_METHOD = {(name, "dora"): "no method dora" for name in ("qwen3_next", "mixtral")}
# Every third class is also trained by each further method.
METHODS = ("qlora", "dora", "full")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


def row_of_page(architecture: Architecture) -> list[str]:
    """What docs/models.md says of a class: class, known as, rows, methods, limits."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if f" | {architecture.known_as} | " in line)
    return [cell.strip() for cell in row.strip("|").split("|")]


def check_page(architecture: Architecture, trainer: ModelTrainer) -> None:
    """The page of models says what was found."""
    inner = trainer.model.get_base_model()
    # Found before, and remembered for texts of any length below.
    layout = find_layout(inner, [[5]], 2).kind
    name, _, rows, lora, *_ = row_of_page(architecture)
    assert (name.split()[0], rows, lora) == (f"`{type(inner).__name__}`", layout, "yes")


def test_the_readme_claims_what_the_page_of_models_says() -> None:
    trained = {
        objective: [
            row_of_page(one)[2] != "–" for one in ARCHITECTURES if one.objective == objective
        ]
        for objective in ("causal", "masked")
    }
    claims = [f"{sum(found)} of {len(found)}" for found in trained.values()]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{claims[0]} tried causal and {claims[1]} masked classes" in readme
    assert sum(trained["causal"]) >= 32
    assert sum(trained["masked"]) >= 17


def nats_of_single_windows(trainer: ModelTrainer, rows: list[Any], plain: Any) -> float:
    """Mean nats of a batch's targets by transformers' own forward, one window at a time."""
    nats, count = 0.0, 0
    for window in (window for row in rows for window in row):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor(np.int64([window.tokens]))).logits[0].float()
        labels = torch.tensor(np.int64(window.labels))
        if trainer.objective == "causal":
            logits, labels = logits[:-1], labels[1:]
        asked = labels != IGNORED
        nats += float(
            torch.nn.functional.cross_entropy(logits[asked], labels[asked], reduction="sum")
        )
        count += int(asked.sum())
    return nats / count


def check_loss(trainer: ModelTrainer, plain: Any) -> None:
    """The loss of a batch, however it is laid out, is that of its windows one by one."""
    rows = [trainer.train_rows[i] for i in range(len(trainer.train_rows))]
    at_once = trainer.args.per_device_train_batch_size
    batches = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    targets = sum(label != IGNORED for row in rows for window in row for label in window.labels)
    trainer.model.eval()
    with torch.no_grad():
        loss = sum(
            float(trainer.model(**trainer.data_collator(batch), num_items_in_batch=targets).loss)
            for batch in batches
        )
    assert loss == pytest.approx(nats_of_single_windows(trainer, rows, plain), rel=1e-5)


def check_scores(trainer: ModelTrainer) -> None:
    """A paper scores the same alone and in any batch."""

    def scores(texts: Any, batch_tokens: int) -> Any:
        arguments = (trainer.model, trainer.tokenizer, texts)
        if trainer.objective == "causal":
            frame = score_papers(*arguments, context=64, stride=32, batch_tokens=batch_tokens)
            return frame["nats"].to_numpy()
        frame = score_papers_masked(
            *arguments, context=64, batch_tokens=batch_tokens, pseudo_tokens=3
        )
        return frame[["mlm_nats", "pseudo_nats"]].to_numpy().flatten()

    alone = np.concatenate([scores([paper], 1) for paper in PAPERS])
    for batch_tokens in (1, 200, 5000):
        np.testing.assert_allclose(scores(PAPERS, batch_tokens), alone, rtol=1e-5)


def check_saved(trainer: ModelTrainer, training: Training, folder: Path) -> AdaptedModel:
    """What is saved and loaded afresh gives the logits that the trainer had."""
    base = resolve_base(training.model)
    description = describe(training, base, torch.float32)
    adapted = AdaptedModel(
        trainer.model, trainer.tokenizer, base.objective, torch.float32, "cpu", description
    )
    save_adapted(folder, trainer.model, trainer.tokenizer, description, adapted)
    loaded = load_adapted(folder, training.hardware)
    assert probe_difference(loaded, folder) <= 1e-5
    return loaded


def check_served(loaded: AdaptedModel, folder: Path, base: Path) -> None:
    """What the registered model answers is what transformers and peft generate."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steps.tracking.registry.served_model import AdaptedLanguageModel

    served = AdaptedLanguageModel()
    served.adapted = loaded
    (answer,) = served.predict(None, ["Variants of the gene"], {"max_new_tokens": 8})
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(folder)
    ).eval()
    tokenizer = loaded.tokenizer
    prompt = [tokenizer.bos_token_id, *tokenizer("Variants of the gene").input_ids]
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=2,
        )
    assert answer == tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_class_trains_scores_saves_and_serves_as_transformers_has_it(
    architecture: Architecture, tmp_path: Path
) -> None:
    base = save(architecture, tmp_path / str(architecture))
    training = training_by_method(base, "lora", max_steps=2)
    if str(architecture) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[str(architecture)]) as refusal:
            build_trainer(training, tmp_path / "run", PAPERS, [])
        assert "\n" not in str(refusal.value)
        assert row_of_page(architecture)[2:7] == ["–", *["no"] * 4]
        return
    trainer = build_trainer(training, tmp_path / "run", PAPERS, PAPERS[:2])
    check_page(architecture, trainer)
    check_loss(trainer, architecture.build())
    before = trainer.trained_weights()
    trainer.train()
    assert any(not torch.equal(w, before[name]) for name, w in trainer.trained_weights().items())
    check_scores(trainer)
    loaded = check_saved(trainer, training, tmp_path / "adapter")
    if architecture.objective == "causal":
        check_served(loaded, tmp_path / "adapter", base)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "architecture", [one for i, one in enumerate(ARCHITECTURES) if i % 3 == 0], ids=str
)
def test_every_third_class_trains_and_is_saved_by_each_further_method(
    architecture: Architecture, method: str, tmp_path: Path
) -> None:
    base = save(architecture, tmp_path / str(architecture))
    training = training_by_method(base, method, max_steps=2)
    if (str(architecture), method) in REFUSED_BY_METHOD:
        with pytest.raises(UserError, match=REFUSED_BY_METHOD[str(architecture), method]):
            build_trainer(training, tmp_path / "run", PAPERS, [])
        return
    trainer = build_trainer(training, tmp_path / "run", PAPERS, PAPERS[:2])
    before = trainer.trained_weights()
    trainer.train()
    assert any(not torch.equal(w, before[name]) for name, w in trainer.trained_weights().items())
    check_scores(trainer)
    check_saved(trainer, training, tmp_path / "adapter")
    del trainer
    gc.collect()
