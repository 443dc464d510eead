"""Training on items: the answers are learned, packed items do not see one another, none is lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.config.sections import Instructions
from steps.errors import UserError
from steps.models.chat import Chat
from steps.models.losses import IGNORED
from steps.models.tokenizer import load_tokenizer
from steps.papers.instructions import InstructionItem, item_of
from tests.support.tiny_runs import (
    assert_accumulation_changes_nothing,
    build_trainer,
    small_training,
)
from tests.support.windows import item_windows

TEMPLATE = "configs/chat_templates/plain.jinja"


def items(count: int) -> list[InstructionItem]:
    made = []
    for number in range(count):
        words = " ".join(f"gene {k}" for k in range(1 + number % 3))
        turns = [
            {"role": "user", "content": f"Question {number}: {words}?"},
            {"role": "assistant", "content": f"Answer {number} is {words}."},
        ]
        made.append(item_of({"messages": turns * (1 + number % 2)}))
    return made


def chat_of(folder: Path) -> Chat:
    return Chat.of(load_tokenizer(folder), TEMPLATE)


def training_of(folder: Path, **hyperparameters: Any) -> Any:
    training = small_training(folder, **hyperparameters)
    return training.model_copy(
        update={
            "model": training.model.model_copy(update={"objective": "instruction"}),
            "instructions": Instructions(chat_template=TEMPLATE),
        }
    )


def test_the_labels_of_a_window_are_its_answers(tiny_llama_folder: Path) -> None:
    chat = chat_of(tiny_llama_folder)
    windows = item_windows(items(4), chat, 512)
    assert len(windows) == 4
    learned = 0
    for item, window in zip(items(4), (windows[n] for n in range(4)), strict=True):
        targets = window.tokens[window.labels != IGNORED]
        answers = [m.content for m in item.messages if m.role == "assistant"]
        text = chat.tokenizer.decode(targets)
        assert text.replace(" ", "") == "".join(f"{a}</s>" for a in answers).replace(" ", "")
        assert (window.labels[window.labels != IGNORED] == targets).all()
        learned += len(targets)
    assert windows.targets == learned


def test_packed_items_are_read_as_if_each_stood_alone(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """The loss of a packed row is that of its items one by one."""
    training = training_of(tiny_llama_folder, batch_size=2)
    trainer = build_trainer(training, tmp_path, items(12), [])
    rows = trainer.train_rows
    assert len(rows) < 12
    trainer.model.eval()
    row = max(rows, key=len)
    batch = trainer.data_collator([row])
    targets = int((batch["labels"] != IGNORED).sum())

    def loss(batch: dict[str, Any]) -> float:
        with torch.no_grad():
            return float(trainer.model(**batch, num_items_in_batch=targets).loss)

    together = loss(batch)
    alone = sum(loss(trainer.data_collator([[window]])) for window in row)
    assert len(row) > 1
    assert together == pytest.approx(alone, rel=1e-5)


def test_accumulation_changes_nothing(tiny_llama_folder: Path, tmp_path: Path) -> None:
    def build(batch_size: int, accumulation: int) -> Any:
        training = training_of(
            tiny_llama_folder,
            batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            # Adam makes steps of gradients that are rounding alone.
            learning_rate=1e-4,
        )
        return build_trainer(training, tmp_path / str(batch_size), items(60), [])

    assert_accumulation_changes_nothing(build)


def test_training_lowers_the_validation_loss_of_answers(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = training_of(tiny_llama_folder, max_steps=12, batch_size=4, learning_rate=1e-2)
    trainer = build_trainer(training, tmp_path, items(24), items(24)[:6])
    assert trainer.objective == "instruction"
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert {"eval_answer_bits_per_byte", "eval_answer_loss"} <= after.keys()
    assert after["eval_answer_bits_per_byte"] < before["eval_answer_bits_per_byte"]


def test_what_does_not_fit_is_cut_or_left_out_and_counted(tiny_llama_folder: Path) -> None:
    chat = chat_of(tiny_llama_folder)
    long = item_of({"question": " ".join(f"word{n}" for n in range(300)), "answer": "Short."})
    endless = item_of({"question": "Why?", "answer": " ".join(f"word{n}" for n in range(300))})
    special = item_of({"question": "What is </s>?", "answer": "EOS."})
    windows = item_windows([*items(2), long, endless, special], chat, 256)
    assert len(windows) == 3
    assert windows.cut == 1
    assert sum(windows.left_out.values()) == 2
    assert np.all(windows.lengths <= 256)
    notes = " ".join(windows.notes)
    assert "1 of 3 items are longer" in notes and "answer alone" in notes and "</s>" in notes


def test_a_template_that_refuses_items_and_items_that_do_not_fit_are_said(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    template = tmp_path / "no_system.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = Chat.of(load_tokenizer(tiny_llama_folder), str(template))
    with_system = item_of({"system": "Be brief.", "question": "Why?", "answer": "So."})
    with pytest.raises(UserError, match=rf"refuses 1 of 3 items, such as {with_system.item_id}"):
        item_windows([*items(2), with_system], chat, 128)
    with pytest.raises(UserError, match=r"none of the 2 items can be learned from .*max_length"):
        item_windows(items(2), chat, 8)


def test_items_survive_a_round_trip_through_json() -> None:
    one = items(2)[1]
    again = item_of({"messages": json.loads(json.dumps([vars_of(m) for m in one.messages]))})
    assert again == one


def vars_of(message: Any) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
