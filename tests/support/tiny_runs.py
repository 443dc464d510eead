"""Training runs of tiny models, and what must hold for any of them."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from steps.config.sections import (
    Hardware,
    Hyperparameters,
    Logging,
    MemoryOptimization,
    Model,
    Qlora,
    Quantization,
    Training,
)
from steps.distributed.deepspeed import zero_stage
from steps.distributed.ranks import Rank
from steps.models.adapters import add_adapter
from steps.models.devices import Placement
from steps.models.initialisation import first_windows
from steps.models.new_tokens import add_new_tokens, give_embeddings
from steps.models.shares import load_base
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from steps.training.context import TrainingContext
from steps.training.mixing import Mixture
from steps.training.trainer import ModelTrainer
from tests.support.made_up_papers import made_up_abstract
from tests.support.project import demo_texts


def papers(count: int) -> list[PaperText]:
    """Demo papers cut to unequal lengths."""
    texts = demo_texts()[:count]
    cut = [text[: 150 + 90 * i] for i, text in enumerate(texts)]
    return [PaperText(f"p{i}", t, (Span(0, len(t), "abstract"),)) for i, t in enumerate(cut)]


def other_texts(count: int = 12) -> list[PaperText]:
    """Texts of another domain than the papers, of unequal lengths."""
    rng = random.Random(1)
    texts = [made_up_abstract(rng, 2 + number % 5) for number in range(count)]
    return [PaperText(f"o{i}", t, (Span(0, len(t), "other"),)) for i, t in enumerate(texts)]


def build_trainer(
    training: Training,
    folder: Path,
    train_papers: Sequence[PaperText],
    validation_papers: Sequence[PaperText],
    **keywords: Any,
) -> ModelTrainer:
    """A trainer in float32 on the CPU, drawn from the configuration's seed.

    Where `replay.share` is above 0, `other_texts` are replayed.

    Args:
        training: The configuration.
        folder: Where checkpoints are written.
        train_papers: What is learned from.
        validation_papers: What is validated on.
        **keywords: Of `TrainingContext`.
    """
    base = resolve_base(training.model)
    torch.manual_seed(training.hyperparameters.seed)
    deepspeed = keywords.get("deepspeed")
    model = load_base(base, training, torch.float32, "cpu", deepspeed).model
    tokenizer = load_tokenizer(base.folder)
    texts = (paper.text for paper in train_papers)
    windows = first_windows(training.qlora, tokenizer, texts, training.model.max_length)
    added = None
    if isinstance(training.tokenizer.new_tokens, tuple):
        added = add_new_tokens(tokenizer, training.tokenizer.new_tokens, base.name)
        give_embeddings(model, added)
    ids = added.ids if added else ()
    model = add_adapter(model, training.qlora, base.objective, windows, ids)
    rank, fully_sharded = keywords.get("rank", Rank()), training.distributed.uses_fsdp2
    placement = Placement("cpu", "float32", rank.count, zero_stage(deepspeed), fully_sharded)
    context = TrainingContext(placement=placement, **keywords)
    return ModelTrainer(
        training,
        model,
        tokenizer,
        train_papers,
        validation_papers,
        folder,
        context=context,
        mixture=Mixture(replay=other_texts(), studied=papers(8)),
    )


def assert_accumulation_changes_nothing(build: Callable[[int, int], ModelTrainer]) -> None:
    """8 x 1, 4 x 2 and 1 x 8 rows a step give the same losses and adapters, to 1e-5.

    Args:
        build: A trainer for a batch size and accumulation steps.
    """
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    for batch_size, accumulation in ((8, 1), (4, 2), (1, 8)):
        one = build(batch_size, accumulation)
        one.train()
        losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
        weights = torch.cat([p.flatten() for p in one.model.parameters() if p.requires_grad])
        results.append((torch.tensor(losses), weights.detach()))
    for seen, adapter in results[1:]:
        torch.testing.assert_close(seen, results[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(adapter, results[0][1], rtol=0, atol=1e-5)


def small_training(folder: Path, **hyperparameters: Any) -> Training:
    """Four steps of LoRA on a tiny model in float32."""
    values = {
        "batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "learning_rate": 1e-2,
        **hyperparameters,
    }
    return Training(
        model=Model(name=str(folder), max_length=128),
        qlora=Qlora(method="lora", r=4, lora_dropout=0.0),
        hyperparameters=Hyperparameters(**values),
        logging=Logging(log_steps=1, eval_steps=2, save_steps=2),
        memory_optimization=MemoryOptimization(gradient_checkpointing=False),
        hardware=Hardware(bf16=False),
    )


def training_by_method(folder: Path, method: str, **hyperparameters: Any) -> Training:
    """A small training by one of the methods, in windows of 64 tokens: some papers have several."""
    training = small_training(folder, **hyperparameters)
    qlora = Qlora(
        method=method,  # type: ignore[arg-type]
        enabled=method != "full",
        r=4,
        lora_dropout=0.0,
        quantization=Quantization(load_in_4bit=method == "qlora"),
    )
    model = training.model.model_copy(update={"max_length": 64})
    return training.model_copy(update={"model": model, "qlora": qlora})
