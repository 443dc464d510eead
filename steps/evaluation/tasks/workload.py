"""How much the tasks of the harness are for a model, before it is loaded."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from steps.evaluation.tasks.definitions import PreparedTasks
from steps.evaluation.workload import Phase

# Of English text, in the vocabularies of the usual bases.
BYTES_OF_A_TOKEN = 4
# So many items of a task stand for all.
ITEMS_LOOKED_AT = 50
# What the harness takes where a task does not say how much is written.
NEW_TOKENS = 256


def task_phases(prepared: Sequence[PreparedTasks]) -> list[Phase]:
    """One phase a task, by the bytes of its first items.

    The first process asks them, one request at a time, and no budget cuts them: their figures are
    to be those of the harness' own command.

    Args:
        prepared: From `prepare_tasks`.
    """
    return [
        _phase(name, task, entry.limit) for entry in prepared for name, task in entry.tasks.items()
    ]


def _phase(name: str, task: Any, limit: int | None) -> Phase:
    count = len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs))
    some = list(islice(task.eval_docs, min(count, ITEMS_LOOKED_AT)))
    read = sum(_bytes_read(task, doc) for doc in some) / BYTES_OF_A_TOKEN
    written = 0
    if task.OUTPUT_TYPE == "generate_until":
        settings = task.config.generation_kwargs or {}
        written = count * int(settings.get("max_gen_toks", NEW_TOKENS))
    tokens = round(read * count / max(1, len(some)))
    return Phase(f"task {name}", count, "items", tokens, written, is_shared=False)


def _bytes_read(task: Any, doc: Any) -> int:
    """Bytes of all requests of an item: each choice is read behind the question once more."""
    question = len(str(task.doc_to_text(doc)).encode())
    asked = len(str(task.config.description).encode()) + question
    asked += question * int(task.config.num_fewshot or 0)
    if task.OUTPUT_TYPE != "multiple_choice":
        return asked
    choices = task.doc_to_choice(doc)
    return asked * len(choices) + sum(len(str(choice).encode()) for choice in choices)
