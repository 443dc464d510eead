"""What work costs where no clock is read: passes, padding, logits, loads, requests, reads.

Each number is today's, with what it is made of. A change that lowers one lowers the number here; a
change that raises one has to say why.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.utils._python_dispatch import TorchDispatchMode

from steps.config.sections import Model, Quantization
from steps.evaluation.likelihood import score_papers
from steps.evaluation.masked import score_papers_masked
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.text import PaperText, Span
from tests.support.grown_store import grow
from tests.support.project import demo_texts
from tests.support.tiny_runs import build_trainer, small_training


def demo_papers() -> list[PaperText]:
    return [
        PaperText(f"p{i}", text, (Span(0, len(text), "abstract"),))
        for i, text in enumerate(demo_texts())
    ]


# What each step may cost, in the order in which they need each other. `requests`: of the step's own
# thread, to store and registry; `sent` and `fetched`: files, each of them a request to a server
# besides; `splits`: the dataset's three, to check its digest, then those that the step uses;
# `loads`: of models; `checks`: of the version in a fresh process.
STEPS: list[tuple[str, tuple[str, ...], dict[str, int]]] = [
    ("preprocess", (), {"requests": 14, "sent": 16}),
    (
        "finetune",
        (),
        # Eight files of a checkpoint; seven of the adapter, in run and version (a copy).
        {"requests": 32, "sent": 34, "fetched": 20, "splits": 6, "loads": 1, "checks": 1},
    ),
    (
        "evaluate",
        ("--model", "base"),
        {"requests": 13, "sent": 14, "fetched": 13, "splits": 5, "loads": 1},
    ),
    (
        "evaluate",
        ("--model", "models:/tiny/1"),
        # The adapter, and four files of the base's results.
        {"requests": 23, "sent": 14, "fetched": 24, "splits": 5, "loads": 1},
    ),
    ("ab_compare", (), {"requests": 47, "sent": 5, "fetched": 19, "splits": 4}),
    ("prune_checkpoints", (), {"requests": 19, "sent": 2}),
]


# The same in a store that has grown: requests, and how many runs, models and versions they bring.
# Pruning decides over all trainings and their checkpoints, so it reads all of them, in pages.
GROWN: list[tuple[str, tuple[str, ...], int, int]] = [
    ("status", (), 30, 1000),
    ("preprocess", (), 30, 60),
    ("finetune", (), 60, 200),
    ("evaluate", ("--model", "models:/tiny/1"), 60, 100),
    ("ab_compare", (), 90, 1200),
    ("prune_checkpoints", (), 60, 13_000),
]


# --- Forward passes, padding, logits ------------------------------------------------------------


class Passes:
    """The forward passes of one kind of decoder.

    Attributes:
        training: Number of those in training mode.
        others: Number of those in evaluation mode.
        trained: Entries of all rows in training mode, padding included.
        entries: Entries of all rows.
        padded: Those of them that a mask leaves out.
    """

    def __init__(self) -> None:
        self.training = self.others = self.trained = self.entries = self.padded = 0

    def note(self, module: Any, arguments: Any, options: dict[str, Any]) -> None:
        ids = options["input_ids"] if "input_ids" in options else arguments[0]
        mask = options.get("attention_mask")
        self.entries += ids.numel()
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            self.padded += int((mask == 0).sum())
        if module.training:
            self.training += 1
            self.trained += ids.numel()
        else:
            self.others += 1


@contextmanager
def passes_of(module: Any) -> Iterator[Passes]:
    passes = Passes()
    handle = module.register_forward_pre_hook(passes.note, with_kwargs=True)
    yield passes
    handle.remove()


class LargestLogits(TorchDispatchMode):
    """Remembers most rows of a tensor that is as wide as the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dim() and made.shape[-1] == self.vocabulary:
            self.rows = max(self.rows, made.numel() // self.vocabulary)
        return made


def test_training_passes_once_over_each_row_pads_nothing_and_holds_one_chunk_of_logits(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = small_training(
        tiny_llama_folder, batch_size=4, gradient_accumulation_steps=2, max_steps=-1, num_epochs=1
    )
    longer = training.model.model_copy(update={"max_length": 512})
    training = training.model_copy(update={"model": longer})
    trainer = build_trainer(training, tmp_path, demo_papers(), [])
    inner = trainer.model.get_base_model()
    with passes_of(inner.model) as passes, LargestLogits(inner.config.vocab_size) as logits:
        trainer.train()
    # One for each micro-batch of the epoch, accumulated by twos; none besides.
    assert passes.training == math.ceil(len(trainer.train_rows) / 4)
    assert trainer.state.global_step == math.ceil(passes.training / 2)
    assert passes.others == 0
    # The papers' windows, and blank rows of one token that make the last micro-batch whole.
    blank = -len(trainer.train_rows) % 4
    assert passes.trained == trainer.train_rows.tokens + blank
    assert passes.padded == 0
    # A micro-batch has some 1,700 targets: logits are there for one chunk at a time.
    assert passes.trained / passes.training > 2 * 512
    assert logits.rows == 512


def test_scoring_passes_once_over_4096_tokens_pads_nothing_and_holds_one_part_of_the_logits(
    tiny_llama_folder: Path,
) -> None:
    model, tokenizer = loaded(tiny_llama_folder)
    with passes_of(model.model) as passes, LargestLogits(model.config.vocab_size) as logits:
        score_papers(model, tokenizer, demo_papers(), context=512, stride=256, batch_tokens=4096)
    # 4 to find how the model bears rows, 1 to take its head apart, and 17 over the 66,560 tokens of
    # all windows.
    assert passes.others == 4 + 1 + 17
    assert passes.padded == 0
    assert logits.rows == 512


def test_scoring_in_padded_rows_passes_once_over_4096_entries_and_pads_a_twentieth(
    tiny_bert_folder: Path,
) -> None:
    model, tokenizer = loaded(tiny_bert_folder)
    with passes_of(model.bert) as passes:
        score_papers_masked(
            model, tokenizer, demo_papers(), context=512, batch_tokens=4096, pseudo_tokens=0
        )
    # 4 to find how the model bears rows, and 10 over rows that are sorted by length (13 over rows
    # that are not).
    assert passes.others == 4 + 10
    # 5.1%.
    assert passes.padded / passes.entries < 0.06


def loaded(folder: Path) -> tuple[Any, Any]:
    """The model of a folder in float32, and its tokenizer."""
    base = resolve_base(Model(name=str(folder)))
    model = load_model(base, Quantization(), 16, torch.float32, "cpu").eval()
    return model, load_tokenizer(base.folder)


# --- Loads, requests, reads ---------------------------------------------------------------------


def count_calls(
    patch: pytest.MonkeyPatch, holder: Any, name: str, count: Callable[[], None]
) -> None:
    """Count the calls of a function, or of a method of a class, from whatever threads."""
    call = getattr(holder, name)
    bound = getattr(call, "__func__", None)
    lock = threading.Lock()

    def counted(*arguments: Any, **options: Any) -> Any:
        with lock:
            count()
        return (bound or call)(*arguments, **options)

    patch.setattr(holder, name, classmethod(counted) if bound else counted)


def count_requests(patch: pytest.MonkeyPatch, costs: Counter[str]) -> None:
    """Count what this thread asks of the tracking store and the registry, a server's requests.

    What a store asks of itself is none, and how much the recorder's thread and a heartbeat ask
    depends on time.
    """
    from mlflow.store.entities import PagedList
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    ours, depth = threading.get_ident(), [0]

    def as_request(call: Callable[..., Any]) -> Callable[..., Any]:
        def requested(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != ours:
                return call(*arguments, **options)
            costs["requests"] += not depth[0]
            depth[0] += 1
            try:
                found = call(*arguments, **options)
            finally:
                depth[0] -= 1
            if not depth[0] and isinstance(found, PagedList):
                costs["read"] += len(found)
            return found

        return requested

    for store in (Tracking, Registry):
        for name in dir(store):
            if not name.startswith("_") and callable(getattr(store, name)):
                patch.setattr(store, name, as_request(getattr(store, name)))


def costs_of_step(name: str, config: Path, *arguments: str) -> dict[str, int]:
    """Run a step in this process, and count what it asks for."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from transformers import PreTrainedModel

    from steps.papers import stored_papers
    from steps.planning import budget
    from steps.tracking.registry import versions

    costs: Counter[str] = Counter()
    counted = {
        "loads": (PreTrainedModel, "from_pretrained"),
        "fetched": (LocalArtifactRepository, "_download_file"),
        "sent": (LocalArtifactRepository, "log_artifact"),
        "splits": (stored_papers, "_arrow_files"),
        "checks": (versions, "check_in_fresh_process"),
    }
    with pytest.MonkeyPatch.context() as patch:
        # A process of its own, which loads the model once more: `test_finetune_served` has it.
        patch.setattr(versions, "check_in_fresh_process", lambda _: None)
        # How long a context would fit into this machine is looked for in large steps.
        little = budget.Budget(64 * 2**20, "a little")
        patch.setattr(budget, "available_budget", lambda *_: little)
        for cost, (holder, function) in counted.items():
            count_calls(patch, holder, function, lambda cost=cost: costs.update([cost]))
        count_requests(patch, costs)
        command = import_module(f"steps.{name}").main
        overrides = (
            "training.hyperparameters.max_steps=4 training.hardware.device=cpu "
            "training.mlflow.system_metrics_seconds=0"
        )
        given = ["--config", str(config), "--overrides", overrides, *arguments]
        result = CliRunner().invoke(command, given)
    assert result.exit_code == 0, result.output
    return dict(costs)


def exactly(costs: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in costs.items() if name not in ("requests", "read")}


def test_a_step_loads_one_model_fetches_each_thing_once_and_asks_the_store_so_often(
    store: str, tiny_config: Path
) -> None:
    """`requests` is an upper limit: a newer MLflow may need fewer."""
    found = [costs_of_step(step, tiny_config, *arguments) for step, arguments, _ in STEPS]
    assert [exactly(costs) for costs in found] == [exactly(most) for _, _, most in STEPS]
    for costs, (step, _, most) in zip(found, STEPS, strict=True):
        assert costs["requests"] <= most["requests"], (step, found)


@pytest.mark.slow
def test_in_a_store_of_2000_runs_and_5000_checkpoints_a_step_asks_hardly_more(
    store: str, tiny_config: Path, tmp_path: Path
) -> None:
    """What a search brings is a page of at most a thousand; `read`: runs, models, versions."""
    for step, arguments, _ in STEPS:
        costs_of_step(step, tiny_config, *arguments)
    grow(tmp_path / "mlflow.db", runs=2000, models=5000)
    for step, arguments, most, read in GROWN:
        costs = costs_of_step(step, tiny_config, *arguments)
        assert costs["requests"] <= most and costs["read"] <= read, (step, costs)
