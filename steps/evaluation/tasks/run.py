"""Run tasks of the harness on a model that is loaded already, and sum them up.

The harness makes the prompts, asks and scores; what is added here is a row an item, intervals
over items, and the same figures without the items that stand in the training papers. The figures
are those of its own command with the same number format:

    python -m lm_eval --model hf --tasks NAME --model_args pretrained=FOLDER,dtype=float32
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.config.measurement_sections import TASK
from steps.evaluation.summary import CONFIDENCE, ratio_interval
from steps.evaluation.tasks.contamination import find_contaminated, text_of
from steps.evaluation.tasks.definitions import PreparedTasks
from steps.metrics import CLEAN, ITEM_COLUMNS
from steps.models.adapted import AdaptedModel

if TYPE_CHECKING:
    import pandas as pd

Interval = tuple[float, float]


@dataclass(frozen=True)
class TaskResults:
    """What tasks have shown.

    Attributes:
        items: One row an item and task: `task`, `item_id`, `pmid` (None where there is none),
            `gold` and `choice` (in words), `loglikelihoods` (of the choices, in nats),
            `contaminated`, `too_short` (to tell), `cut` (the prompt was too long and lost its
            beginning), `item_hash`, and a column for each metric that is a mean over items and
            of which more is better; NaN where a task does not have it.
        metrics: `task/NAME/acc` and the like, with the bounds of their 95 % intervals.
    """

    items: "pd.DataFrame"
    metrics: dict[str, float]


def run_tasks(
    adapted: AdaptedModel,
    prepared: Sequence[PreparedTasks],
    learned: Iterable[str],
    *,
    seed: int,
    resamples: int,
) -> TaskResults:
    """Ask a model the items of tasks, one request at a time, as the harness does by default.

    Args:
        adapted: A causal model; it is left as it was.
        prepared: From `prepare_tasks`.
        learned: The texts that the model was trained on.
        seed: Of the resampling of items.
        resamples: Times that the items are drawn anew.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    texts: list[str] = []
    averaged: dict[str, list[str]] = {}
    with asked_by_harness(adapted) as peer:
        for entry in prepared:
            found = _evaluate(peer, entry)
            for name, task in entry.tasks.items():
                samples = found["samples"][name]
                averaged[name] = _averaged(task, found, name)
                rows += _rows(peer, name, task, samples, averaged[name])
                texts += [text_of(sample["doc"]) for sample in _once(samples)]
            for name in (*entry.tasks, *entry.groups):
                metrics |= _figures(name, found["results"].get(name, {}))
    for row, known in zip(rows, find_contaminated(texts, learned), strict=True):
        row |= {"contaminated": known.contaminated, "too_short": known.too_short}
    items = pd.DataFrame(rows)
    draws = {"seed": seed, "resamples": resamples}
    for name, measured in averaged.items():
        metrics |= _summary(name, items[items["task"] == name], measured, metrics, **draws)
    measured = sorted({metric for of_task in averaged.values() for metric in of_task})
    return TaskResults(items[[*ITEM_COLUMNS, *measured]], metrics)


@contextmanager
def asked_by_harness(adapted: AdaptedModel) -> Iterator[Any]:
    """The harness' wrapper around a loaded model, which is left as it was.

    Its constructor ties the weights of embeddings and head again, which would undo what an adapter
    has made of them, and gives the tokenizer a padding token.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    is_mixed = adapted.dtype != torch.float32
    number_format = str(adapted.dtype).removeprefix("torch.") if is_mixed else None
    adapted.model.tie_weights = lambda *_, **__: None
    try:
        yield HFLM(
            pretrained=adapted.model,
            tokenizer=copy.deepcopy(adapted.tokenizer),
            backend="causal",
            # By more, a figure could depend on what stands beside an item in its batch.
            batch_size=1,
            mixed_precision_dtype=number_format,
            softmax_dtype="float32" if is_mixed else None,
        )
    finally:
        del adapted.model.tie_weights


def _evaluate(peer: Any, entry: PreparedTasks) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    children = {name: group.child_names for name, group in entry.groups.items()}
    found: dict[str, Any] = evaluate(
        lm=peer,
        task_dict={"tasks": entry.tasks, "groups": entry.groups, "group_map": children},
        limit=entry.limit,
        # Intervals are drawn here.
        bootstrap_iters=0,
        log_samples=True,
    )
    return found


def _figures(name: str, results: Mapping[str, Any]) -> dict[str, float]:
    """The harness' own figures of a task: `acc,none` is `task/NAME/acc`."""
    filters = {key.partition(",")[2] for key in results if "," in key}
    figures = {}
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            figures[f"{TASK}{name}/{_column(metric, kind, filters)}"] = float(value)
    return figures


def _column(metric: str, kind: str, filters: Iterable[str]) -> str:
    """The name of a metric: that of the filter only where a task has several."""
    return metric if len(set(filters)) == 1 else f"{metric}_{kind}"


def _averaged(task: Any, found: Mapping[str, Any], name: str) -> list[str]:
    """The metrics of a task that are means over items, and of which more is better."""
    from lm_eval.api.metrics import mean

    samples = found["samples"][name]
    filters = {sample["filter"] for sample in samples}
    better = task.higher_is_better()
    means = [metric for metric, how in task.aggregation().items() if how is mean]
    return [
        _column(metric, kind, filters)
        for metric in means
        for kind in sorted(filters)
        if better.get(metric)
        and all(
            isinstance(sample.get(metric), int | float | np.number)
            for sample in samples
            if sample["filter"] == kind
        )
    ]


def _once(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One sample an item: that of the first filter."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _rows(
    peer: Any,
    name: str,
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    measured: Sequence[str],
) -> list[dict[str, Any]]:
    """One row an item, in the order in which they were asked."""
    filters = {sample["filter"] for sample in samples}
    scores: dict[Any, dict[str, float]] = {}
    for sample in samples:
        of_item = scores.setdefault(sample["doc_id"], {})
        for metric in sample["metrics"]:
            column = _column(metric, sample["filter"], filters)
            if column in measured:
                of_item[column] = float(sample[metric])
    return [
        {
            "task": name,
            "item_id": str(sample["doc"].get("item_id", sample["doc_id"])),
            "pmid": _pmid(sample["doc"]),
            **_answers(task, sample),
            "cut": any(_is_cut(peer, task, arguments) for arguments in sample["arguments"]),
            "item_hash": sample["doc_hash"],
            **scores[sample["doc_id"]],
        }
        for sample in _once(samples)
    ]


def _pmid(item: Mapping[str, Any]) -> str | None:
    for key in ("pmid", "PMID", "pubmed_id", "pubid"):
        if item.get(key) not in (None, ""):
            return str(item[key])
    return None


def _answers(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    """The right answer and the given one in words, and the log-likelihoods that led to it."""
    target, replies = sample["target"], sample["filtered_resps"]
    if task.OUTPUT_TYPE != "multiple_choice":
        likely = [float(one[0]) for one in replies] if _are_likelihoods(replies) else []
        said = "" if likely else str(replies[0])
        return {"gold": str(target), "choice": said, "loglikelihoods": likely}
    choices = task.doc_to_choice(sample["doc"])
    likely = [float(one[0]) for one in replies[: len(choices)]]
    if task.multiple_input:
        target = task.doc_to_text(sample["doc"])
    gold = target if isinstance(target, list) else [target]
    in_words = [choices[one] if isinstance(one, int) else str(one) for one in gold]
    return {
        "gold": " | ".join(in_words),
        "choice": choices[int(np.argmax(likely))],
        "loglikelihoods": likely,
    }


def _are_likelihoods(replies: Sequence[Any]) -> bool:
    return bool(replies) and isinstance(replies[0], tuple | list) and len(replies[0]) == 2


def _is_cut(peer: Any, task: Any, arguments: Sequence[Any]) -> bool:
    """Whether a prompt with its answer is longer than the model reads, and loses its beginning."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return False
    if task.OUTPUT_TYPE == "generate_until":
        room = peer.max_length - int(arguments[1].get("max_gen_toks", peer.max_gen_toks))
        return bool(len(peer.tok_encode(arguments[0])) > room)
    return bool(len(peer.tok_encode(arguments[0] + arguments[1])) > peer.max_length + 1)


def _summary(
    name: str,
    items: "pd.DataFrame",
    measured: Sequence[str],
    figures: Mapping[str, float],
    *,
    seed: int,
    resamples: int,
) -> dict[str, float]:
    """Intervals of a task's means, the means without contaminated items, and counts."""
    front = f"{TASK}{name}/"
    clean = items[~items["contaminated"]]
    summary = {
        f"{front}items": float(len(items)),
        f"{front}contaminated": float(items["contaminated"].sum()),
        f"{front}too_short": float(items["too_short"].sum()),
        f"{front}cut": float(items["cut"].sum()),
    }
    for metric in measured:
        for kept, suffix in ((items, ""), (clean, CLEAN)):
            if kept.empty:
                continue
            values = kept[metric].to_numpy(dtype=np.float64)
            key = f"{front}{metric}{suffix}"
            summary[key] = figures[key] if suffix == "" else float(values.mean())
            if len(values) >= 2:
                low, high = _interval(values, seed=seed, resamples=resamples)
                summary |= {f"{key}_ci_low": low, f"{key}_ci_high": high}
    return summary


def _interval(values: "np.typing.NDArray[np.float64]", *, seed: int, resamples: int) -> Interval:
    """The 95 % interval of a mean over items.

    Of right and wrong it is Wilson's (1927): resampled, none right of 50 would be none for sure.
    """
    if not np.isin(values, (0.0, 1.0)).all():
        pairs = np.column_stack([values, np.ones(len(values))])
        return ratio_interval(pairs, seed=seed, resamples=resamples)
    count, square = len(values), NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) ** 2
    right = float(values.sum())
    middle = (right + square / 2) / (count + square)
    spread = right * (count - right) / count + square / 4
    half = (square * spread) ** 0.5 / (count + square)
    return max(0.0, middle - half), min(1.0, middle + half)
