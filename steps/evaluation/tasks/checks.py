"""Whether a task can be asked: it has items, each has an answer, and nothing runs code."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from steps.config.measurement_sections import HarnessTask
from steps.errors import UserError

LONGEST_SHOWN = 80
# What the harness computes of each kind of task; another name it passes over in silence.
METRICS_OF = {
    "loglikelihood": {"perplexity", "acc"},
    "loglikelihood_rolling": {"word_perplexity", "byte_perplexity", "bits_per_byte"},
    "multiple_choice": {
        *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
        *("f1", "mcc", "brier_score", "likelihood"),
    },
}


def check_task(entry: HarnessTask, name: str, task: Any) -> None:
    """Refuse a task that would fail, or whose figures would mean nothing.

    Args:
        entry: Where it is configured.
        name: Its name.
        task: The harness' task with its data.

    Raises:
        UserError: It runs code that a model writes, or asks for more than text; it has no item, or
            one without an answer.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"task {name!r} runs the code that a model writes, which is not done here: take it out "
            "of training.evaluation.tasks"
        )
    if getattr(task, "MULTIMODAL", False):
        raise UserError(
            f"task {name!r} shows pictures or sound, and models here read text alone: take it out "
            "of training.evaluation.tasks"
        )
    _check_metrics(name, task)
    items = 0
    for items, item in enumerate(islice(task.eval_docs, entry.limit), start=1):
        trouble = next(_troubles(task, item), None)
        if trouble is not None:
            where = entry.file or f"the data of task {name!r}"
            raise UserError(f"{where}, record {items}: {trouble}: mend it, or take the record out")
    if not items:
        raise UserError(f"task {name!r} has no item: take it out of training.evaluation.tasks")


def _check_metrics(name: str, task: Any) -> None:
    config = task.config
    if getattr(config, "process_results", None) is not None:
        return
    functions = getattr(task, "_metric_fn_list", {})
    known = METRICS_OF.get(task.OUTPUT_TYPE)
    for metric, function in functions.items():
        if function is None or (known is not None and metric not in known):
            expected = ", ".join(sorted(known)) if known else "one that the harness knows"
            raise UserError(
                f"task {name!r}: no {task.OUTPUT_TYPE} task has the metric {metric!r}, expected "
                f"{expected}: mend its metric_list"
            )


def _troubles(task: Any, item: Any) -> Iterator[str]:
    """What is wrong with the answer of an item."""
    config = task.config
    if getattr(config, "process_results", None) is not None or not hasattr(config, "doc_to_target"):
        # It is up to that code what an answer is.
        return
    answer = task.doc_to_target(item)
    if answer is None or answer in ("", []):
        yield "it has no answer"
    elif task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        choices = task.doc_to_choice(item)
        for one in answer if isinstance(answer, list) else [answer]:
            inside = 0 <= one < len(choices) if isinstance(one, int) else one in choices
            if not inside:
                shown = str(choices)[:LONGEST_SHOWN]
                yield f"its answer is {one!r}, which is none of its choices {shown}"
