"""Cache keys: when a step's result can be used again, and why not.

A key covers what the step reads: its sections of the configuration, the digests of its
inputs, the source of the folders that it uses, and the locked versions of the libraries.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.dotted import flatten
from steps.config.paths import PROJECT_ROOT
from steps.config.sections import Model, Training
from steps.digests import file_sha256
from steps.models.chat import template_file
from steps.models.new_tokens import wanted_tokens
from steps.models.sources import config_digest
from steps.tracking.artifacts import list_files, remember
from steps.tracking.names import (
    ADAPTER_FOLDER,
    CACHE_KEY_TAG,
    CACHE_PARTS_TAG,
    DATASET_FOLDER,
    DECISION_FILE,
    METRICS_FILE,
    PER_PAPER_FILE,
    PLAN_FILE,
    STEP_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


LOCK_FILE = "requirements.lock"

# Runs of a step whose keys are compared before the store is asked for one.
NEWEST_LOOKED_AT = 4

# What each step reads: sections of the configuration, and folders (or files) of source.
SECTIONS = {
    "preprocess": ("scientific_data",),
    "finetune": (
        "model",
        "tokenizer",
        "qlora",
        "masking",
        "merge",
        "replay",
        "study_texts",
        "hyperparameters",
        "optimizer",
        "scheduler",
        "logging",
        "memory_optimization",
        "hardware",
        "distributed",
    ),
    "evaluate": ("evaluation",),
    "ab_compare": ("comparison",),
    "prune_checkpoints": ("pruning",),
}
SOURCES = {
    "preprocess": ("papers", "preprocess.py"),
    "finetune": (
        "training",
        "models",
        "distributed",
        "checkpoints",
        "planning",
        "papers/cleaning",
        "papers/replay.py",
        "papers/numbers.py",
        "papers/study_texts.py",
        "papers/text.py",
        "papers/item_splits.py",
        "papers/instructions.py",
        "finetune.py",
    ),
    "evaluate": (
        "evaluation",
        "papers",
        "models",
        "distributed/sharing.py",
        "metrics.py",
        "evaluate.py",
    ),
    "ab_compare": ("comparison", "metrics.py", "ab_compare.py"),
    "prune_checkpoints": ("pruning", "prune_checkpoints.py"),
}

# What a run of a step has to hold still, or its result is none.
FILES = {
    "preprocess": {DATASET_FOLDER},
    "finetune": {ADAPTER_FOLDER},
    "evaluate": {METRICS_FILE, PER_PAPER_FILE},
    "ab_compare": {DECISION_FILE},
    "prune_checkpoints": {PLAN_FILE},
}

# Changes where or how loudly a step works, not what it makes.
WITHOUT_EFFECT = {
    "scientific_data.num_workers",
    "scientific_data.engine",
    "scientific_data.data_file",
    # The digest of what lies there is an input.
    "replay.source",
}


# Keys of later versions, which change nothing where they are empty.
BUDGET = "evaluation.budget_minutes"
ONLY_WHERE_SET = {BUDGET, "evaluation.tasks"}


def key_parts(step: str, training: Training, inputs: Mapping[str, str]) -> dict[str, str]:
    """The parts of a step's cache key, by name, so that a difference can be named."""
    parts: dict[str, str] = {}
    for section in SECTIONS[step]:
        content = getattr(training, section).model_dump(mode="json")
        for key, value in flatten(section, content):
            if key not in WITHOUT_EFFECT and (value or key not in ONLY_WHERE_SET):
                parts[key] = json.dumps(value, sort_keys=True)
    if step == "finetune":
        # A version of another model is no challenger of this one's champion.
        if training.mlflow.log_model:
            parts["mlflow.registered_model_name"] = training.mlflow.registered_model_name
        parts["sections"] = json.dumps(training.scientific_data.sections)
        if isinstance(training.tokenizer.new_tokens, str):
            # The file may be edited; the tokens in it are what counts.
            parts["new tokens"] = json.dumps(wanted_tokens(training.tokenizer, {}))
    if step in ("finetune", "evaluate") and (Path(training.model.name) / "config.json").is_file():
        # A folder may be edited; the hub's commit and a package may not.
        parts["base configuration"] = config_digest(Path(training.model.name))
    parts.update({f"input {name}": digest for name, digest in inputs.items()})
    parts["source"] = _source_digest(SOURCES[step])
    lock = PROJECT_ROOT / LOCK_FILE
    parts["lock file"] = file_sha256(lock) if lock.is_file() else "none"
    return parts


def cache_key(parts: Mapping[str, str]) -> str:
    """The tag value that a finished run is found by."""
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(encoded).hexdigest()


def finetune_inputs(training: Training, dataset_digest: str) -> dict[str, str]:
    """What a finetune depends on besides its sections of the configuration."""
    return {"dataset": dataset_digest, **chat_inputs(training)}


def chat_inputs(training: Training) -> dict[str, str]:
    """The chat template that the configuration names, by its digest; none for other objectives."""
    if training.model.objective != "instruction":
        return {}
    name = training.instructions.chat_template
    return {"chat template": digest_of_files([template_file(name)]) if name else "the model's"}


def find_reusable(
    client: "MlflowClient", experiment_id: str, step: str, parts: Mapping[str, str]
) -> "tuple[Run | None, str]":
    """Look for a finished run with this key that still has its files.

    A result that a budget has cut is found under that budget alone; where all fitted, it has the
    key of one without.

    Returns:
        The newest such run and "", or None and the reason why nothing can be used again.
    """
    if BUDGET in parts:
        without = {name: value for name, value in parts.items() if name != BUDGET}
        whole, _ = find_reusable(client, experiment_id, step, without)
        if whole is not None:
            return whole, ""
    finished = f"attributes.status = 'FINISHED' and tags.`{STEP_TAG}` = '{step}'"
    key = cache_key(parts)
    with_key = f"{finished} and tags.`{CACHE_KEY_TAG}` = '{key}'"
    newest_first = ["attributes.start_time DESC"]
    # Where all of them fit into a small answer, one request tells both what is there and why not.
    runs = client.search_runs(
        [experiment_id], finished, order_by=newest_first, max_results=NEWEST_LOOKED_AT
    )
    same = [run for run in runs if run.data.tags.get(CACHE_KEY_TAG) == key]
    if not same and len(runs) == NEWEST_LOOKED_AT:
        same = client.search_runs([experiment_id], with_key, order_by=newest_first, max_results=10)
    for run in same:
        remember(client, run)
        if _artifacts(client, run.info.run_id) >= FILES[step]:
            return run, ""
    if same:
        return None, "files of the earlier result are gone"
    if not runs:
        return None, "no finished run yet"
    before = json.loads(runs[0].data.tags.get(CACHE_PARTS_TAG, "{}"))
    changed = [name for name, digest in _short(parts).items() if before.get(name) != digest]
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return None, f"changed: {shown}" if changed else "earlier results differ"


def _artifacts(client: "MlflowClient", run_id: str) -> set[str]:
    return {file.path for file in list_files(client, run_id)}


def cache_tags(parts: Mapping[str, str]) -> dict[str, str]:
    """Tags, named without `forge.` as `StepRun.tag` takes them, by which a run is reused."""
    return {
        "cache_key": cache_key(parts),
        "cache_parts": json.dumps(_short(parts), sort_keys=True, separators=(",", ":")),
    }


def _short(parts: Mapping[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(value.encode()).hexdigest()[:8] for name, value in parts.items()}


@lru_cache
def _source_digest(names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = PROJECT_ROOT / "steps" / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(PROJECT_ROOT).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def digest_of_files(files: list[Path]) -> str:
    """Digest over the content of files, whatever their names and order."""
    digests = sorted(file_sha256(file) for file in files)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def base_identity(model: Model) -> dict[str, Any]:
    """What of the model section says which weights are meant."""
    return {
        "name": model.name,
        "source": model.source,
        "revision": model.revision,
        "sha256": model.sha256,
    }
