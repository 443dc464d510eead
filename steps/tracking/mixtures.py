"""What is mixed into a training beside its papers: fetched, and named in the lineage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.papers.instructions import InstructionItem
from steps.papers.replay import WHAT, ReplayTexts, is_plain_text, read_replay
from steps.papers.text import PaperText
from steps.tracking.credentials import masked
from steps.tracking.inputs import find_papers
from steps.tracking.runs import StepRun

if TYPE_CHECKING:
    from steps.training.mixing import MixedSource

# What of the section scientific_data shapes the texts of replay.
SHAPING = ("preprocessing", "columns", "limits", "deduplication")


def fetch_replay(
    training: Training, scratch: Path, held_out: Sequence[PaperText | InstructionItem]
) -> ReplayTexts:
    """The texts of `replay.source`, without what the model is going to be measured on.

    Args:
        training: The configuration.
        scratch: Where a download goes.
        held_out: The papers, and items, of the validation and test splits; the general texts of the
            evaluation come on top.

    Raises:
        UserError: The source is missing, cannot be read, or no text of it is left.
    """
    from steps.papers.general_texts import read_general_texts

    files = replay_files(training, scratch)
    general = read_general_texts(training.evaluation.general_texts)
    known = [text.text for text in (*held_out, *general)]
    return read_replay(files, training.scientific_data, known)


def replay_files(training: Training, scratch: Path) -> list[Path]:
    """The files of `replay.source` on this machine.

    Raises:
        UserError: Nothing is there, or it may not be read.
    """
    source = training.replay.source
    assert source is not None
    return find_papers(source, scratch / "replay", WHAT, is_plain_text)


def replay_inputs(training: Training, scratch: Path) -> dict[str, str]:
    """What the texts of replay depend on besides the dataset, as parts of a cache key.

    Raises:
        UserError: The source, or a general text of the evaluation, is missing.
    """
    from steps.papers.general_texts import general_files
    from steps.tracking.cache import digest_of_files

    if not training.replay.share:
        return {}
    general = training.evaluation.general_texts
    rules = training.scientific_data.model_dump(mode="json", include=set(SHAPING))
    return {
        "replay": digest_of_files(replay_files(training, scratch)),
        "replay rules": json.dumps(rules, sort_keys=True),
        "general texts": digest_of_files(general_files(general)) if general else "none",
    }


def replay_tags(training: Training, replay: ReplayTexts | None) -> dict[str, str]:
    """Tags, named as `StepRun.tag` takes them, that say what is replayed."""
    if replay is None:
        return {}
    return {
        "replay_source": masked(str(training.replay.source)),
        "replay_digest": replay.digest,
        "replay_texts": str(len(replay.texts)),
        "replay_left_out": str(replay.left_out.get("held out", 0)),
    }


def log_replay_input(training: Training, replay: ReplayTexts) -> None:
    """Log the texts of replay as an input of the active run, under our digest."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    from steps.tracking.datasets import DIGEST_LENGTH

    source = CodeDatasetSource(tags={"uri": masked(str(training.replay.source))})
    digest = replay.digest.removeprefix("sha256:")[:DIGEST_LENGTH]
    mlflow.log_input(MetaDataset(source, name="replay", digest=digest), context="replay")


def describe_sources(run: StepRun, sources: "Sequence[MixedSource]") -> None:
    """Tag a run with the tokens of what is mixed into its training."""
    tags: dict[str, Any] = {}
    for source in sources:
        tags[f"{source.section}_tokens"] = str(source.tokens)
        tags[f"{source.section}_tokens_per_epoch"] = str(source.tokens_an_epoch)
    run.tag(**tags)
