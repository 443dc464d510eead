"""The job of a finetune run: everything looked up, checked and planned before any weight is loaded.

prepared = prepare_job(run, loaded, "latest", "auto", "challenger", rank)      # all ranks call it
prepared.job.placement, prepared.job.resume
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.checkpoints.format import remove_leftovers
from steps.config.deepspeed_file import deepspeed_path
from steps.config.dotted import flatten
from steps.config.file import LoadedConfig, resolved_yaml
from steps.config.sections import Training
from steps.distributed.collectives import broadcast, check_ranks_agree, raise_on_all_ranks
from steps.distributed.deepspeed import (
    check_deepspeed_file,
    deepspeed_settings,
    read_deepspeed_file,
    zero_stage,
)
from steps.distributed.ranks import Rank
from steps.errors import UserError
from steps.models.chat import Chat
from steps.models.checks import check_base
from steps.models.devices import Placement, dtype_name, pick_device, pick_dtype
from steps.models.new_tokens import NewTokens, add_new_tokens, wanted_tokens
from steps.models.residual import resolve_instruct
from steps.models.sources import Base, resolve_base, task_trained
from steps.models.tokenizer import check_tokenizer, load_tokenizer
from steps.papers.instructions import InstructionItem
from steps.papers.item_splits import open_split, read_split
from steps.papers.replay import ReplayTexts
from steps.papers.stored_papers import StoredPapers, open_papers
from steps.papers.text import PaperText
from steps.recorder import SilentRecorder
from steps.terminal import say
from steps.tracking.cache import finetune_inputs, key_parts
from steps.tracking.checkpoints.agreement import (
    agree_on_point,
    checkpoint_folder,
    is_restarted,
    last_steps,
    machine_name,
)
from steps.tracking.checkpoints.resume import (
    Found,
    metadata,
    resumable_tags,
    resume_fingerprint,
    take_over,
)
from steps.tracking.checkpoints.uploads import CheckpointUploads, NoUploads
from steps.tracking.credentials import masked
from steps.tracking.datasets import StoredDataset, fetch_dataset, log_dataset_input
from steps.tracking.environment import git_state, library_versions, write_environment
from steps.tracking.mixtures import fetch_replay, log_replay_input, replay_inputs, replay_tags
from steps.tracking.plans import measured_rate, record_plan
from steps.tracking.recorder import MlflowRecorder, sampling_machine
from steps.tracking.registry.naming import try_names
from steps.tracking.runs import StepRun
from steps.training.job import Job

if TYPE_CHECKING:
    from steps.checkpoints.trainer_state import ResumePoint


@dataclass(frozen=True)
class PreparedJob:
    """A job, and where in the store its parts come from.

    Attributes:
        job: What the training is given.
        dataset: The dataset of its papers.
        found: The run and checkpoint that it goes on from, or None.
        fingerprint: What a checkpoint has to agree with, to be resumed by this configuration.
        restarted: Whether an earlier attempt has trained in this very run.
        last_steps: The last step of each metric that the run has from that attempt.
        cache_parts: The parts of the step's cache key.
    """

    job: Job
    dataset: StoredDataset
    found: Found | None
    fingerprint: Mapping[str, Any]
    restarted: bool
    last_steps: Mapping[str, int]
    cache_parts: Mapping[str, str]

    def checkpoint_metadata(self, run: StepRun) -> dict[str, Any]:
        """What the manifest of each checkpoint of a run states."""
        return metadata(run.id, self.dataset.digest, self.fingerprint)


def prepare_job(
    run: StepRun, loaded: LoadedConfig, dataset: str, resume: str, alias: str, rank: Rank
) -> PreparedJob:
    """Look up and check all that a training needs; all ranks call it.

    Args:
        run: The run of this step.
        loaded: The configuration.
        dataset: `latest`, a run id, or `runs:/ID/dataset`.
        resume: `never`, `auto`, or a run id.
        alias: Of the version to be registered.
        rank: The place of this process among those that train together.

    Raises:
        UserError: Something is missing, contradictory, or does not fit; on every rank.
    """
    # It brings transformers' Trainer and all that this imports.
    from steps.training.arguments import checkpointed_if_possible

    training = loaded.training
    with raise_on_all_ranks():
        check_distributed(loaded, rank.count)
    stored = _fetch_on_all_ranks(run, dataset, rank)
    with raise_on_all_ranks():
        inputs = finetune_inputs(training, stored.digest) | replay_inputs(training, run.scratch)
        cache_parts = key_parts("finetune", training, inputs)
        replay = _replay(run, training, stored, rank)
        studied = _studied(training, stored)
        train_papers = examples_of(stored, "train", training)
        validation_papers = examples_of(stored, "validation", training)
        base = resolve_base(training.model)
        device = pick_device(training.hardware.device)
        dtype = pick_dtype(training.hardware, device)
        model_class = check_base(base, training, device)
        tokenizer = load_tokenizer(base.folder)
        note = check_tokenizer(tokenizer, base)
        if training.model.objective == "instruction":
            Chat.of(tokenizer, training.instructions.chat_template, base.name)
        if note and rank.is_first:
            say(f"note: {note}")
        training, added = _with_new_tokens(training, tokenizer, train_papers, base)
        if added and rank.is_first:
            say(f"{len(added.ids)} tokens added to the vocabulary: {_some(added.texts)}")
        training = checkpointed_if_possible(training, model_class)
        instruct = resolve_instruct(training, base)
    content = _deepspeed_content(loaded)
    shared = training.distributed.uses_fsdp2
    placement = Placement(device, dtype_name(dtype), rank.count, zero_stage(content), shared)
    fingerprint = resume_fingerprint(training, base, stored.digest, replay.digest if replay else "")
    fingerprint |= {"processes": rank.count, "deepspeed": content}
    check_ranks_agree({**fingerprint, **library_versions(), "number format": str(dtype)})
    checkpoint_root = _checkpoint_root(training, run, rank)
    restarted = is_restarted(run)
    already = last_steps(run) if restarted and rank.is_first else {}
    found = agree_on_point(run, rank, resume, fingerprint, say)
    if found and found.division:
        training, fingerprint = found.division.applied(training, fingerprint)
    job = Job(
        training=training,
        base=base,
        tokenizer=tokenizer,
        new_tokens=added,
        placement=placement,
        train_papers=train_papers,
        validation_papers=validation_papers,
        replay=replay,
        studied=studied,
        checkpoint_root=checkpoint_root,
        resume=found.point if found else None,
        deepspeed=None,
        instruct=instruct,
    )
    job = _planned_on_first_rank(run, job, rank, records=not restarted)
    with raise_on_all_ranks():
        job = replace(job, deepspeed=_deepspeed(loaded, job, rank))
        # Last, as it makes the registered model: whatever is refused before leaves nothing.
        if rank.is_first and training.mlflow.log_model:
            try_names(run.client, training.mlflow.registered_model_name, alias)
    return PreparedJob(job, stored, found, fingerprint, restarted, already, cache_parts)


def _with_new_tokens(
    training: Training,
    tokenizer: Any,
    examples: Sequence[PaperText | InstructionItem],
    base: Base,
) -> tuple[Training, NewTokens | None]:
    """The tokenizer with what the configuration adds, and the configuration with it spelled out.

    So a resumed run, the plan and a checkpoint's manifest know the tokens themselves.
    """
    if training.tokenizer.new_tokens is None:
        return training, None
    papers = (one for one in examples if isinstance(one, PaperText))
    genes = Counter(paper.text[gene.start : gene.end] for paper in papers for gene in paper.genes)
    entries = wanted_tokens(training.tokenizer, genes)
    added = add_new_tokens(tokenizer, entries, base.name)
    spelled_out = training.tokenizer.model_copy(update={"new_tokens": entries})
    return training.model_copy(update={"tokenizer": spelled_out}), added


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:5]) + (", …" if len(texts) > 5 else "")


def check_distributed(loaded: LoadedConfig, processes: int | None = None) -> None:
    """Refuse a DeepSpeed file that this configuration cannot be trained with.

    Args:
        loaded: The configuration; without DeepSpeed in use there is nothing to refuse.
        processes: Over all machines; None: not known yet.

    Raises:
        UserError: It cannot be read, holds what DeepSpeed does not know, or contradicts the
            configuration.
    """
    training = loaded.training
    if training.distributed.uses_fsdp2:
        dtype = pick_dtype(training.hardware, pick_device(training.hardware.device))
        if dtype_name(dtype) == "float16":
            raise UserError(
                "distributed.backend is fsdp2, and this GPU knows float16 alone, which needs a "
                "loss scale: use training.distributed.backend=ddp"
            )
    if training.distributed.uses_deepspeed:
        dtype = pick_dtype(training.hardware, pick_device(training.hardware.device))
        path = deepspeed_path(training, loaded.path)
        check_deepspeed_file(path, training, dtype, processes)


def _planned_on_first_rank(run: StepRun, job: Job, rank: Rank, *, records: bool) -> Job:
    """The job with `batch_size: auto` worked out; what rank 0 has settled holds for all.

    Args:
        run: The run of this step; `plan.json` goes there.
        job: What is to be trained.
        rank: The place of this process.
        records: Whether the plan is kept; a restarted run has it already.
    """
    rows: int | str = 0
    with raise_on_all_ranks():
        if rank.is_first:
            with run.together():
                rows = _plan(run, job, rank, records=records).hyperparameters.batch_size
    settled = {"batch_size": broadcast(rows)}
    values = job.training.hyperparameters.model_copy(update=settled)
    return replace(job, training=job.training.model_copy(update={"hyperparameters": values}))


def _plan(run: StepRun, job: Job, rank: Rank, *, records: bool) -> Training:
    """Plan memory, time and disk, leave `plan.json`, and refuse what cannot fit."""
    from steps.checkpoints.trainer_state import micro_batch_of
    from steps.planning.budget import available_budget
    from steps.planning.models import CannotPlan
    from steps.planning.settle import estimate_tokens, plan_training

    budget = available_budget(job.training, job.placement.device)
    if job.placement.device == "cpu":
        # Memory that all processes of this machine share.
        budget = replace(budget, size=budget.size // rank.local_count)
    point: ResumePoint | None = job.resume
    try:
        planned = plan_training(
            job.training,
            job.base,
            budget,
            job.placement,
            tokens=round(
                estimate_tokens(job.train_papers, job.tokenizer) / (1 - job.training.mixed_share)
            ),
            tokens_per_second=measured_rate(run, job.base, job.training, job.placement),
            earlier=micro_batch_of(point.folder) if point else None,
        )
    except CannotPlan as error:
        # What is wrong with it, if anything is, the loaded model will tell.
        say(f"note: no plan: {error}")
        return job.training
    if records:
        record_plan(run, planned.plan)
    planned.check(job.checkpoint_root)
    return planned.training


def describe_run(run: StepRun, loaded: LoadedConfig, prepared: PreparedJob, rank: Rank) -> None:
    """Put what is about to be trained into the run: tags, parameters, files, and its history."""
    job, stored = prepared.job, prepared.dataset
    run.tag(
        dataset_digest=stored.digest,
        dataset_run=stored.run_id,
        base_model=job.base.name,
        base_source=job.base.source,
        base_revision=job.base.revision,
        base_sha256=job.base.sha256,
        base_config_sha256=job.base.config_sha256,
        base_note=job.base.note,
        objective=task_trained(job.training, job.base.objective),
        method=job.training.qlora.resolved_method,
        instruct_model=job.instruct.name if job.instruct else None,
        trained_papers=str(_units(job.train_papers)),
        trained_items=_items(job),
        processes=str(rank.count),
        machines=str(rank.machines),
        **replay_tags(job.training, job.replay),
        **(prepared.found.division.tags if prepared.found and prepared.found.division else {}),
        **resumable_tags(job.checkpoint_root, prepared.fingerprint),
        **git_state(),
        **{f"version.{name}": number for name, number in library_versions().items()},
    )
    if prepared.found is not None and rank.is_first:
        take_over(run, prepared.found, prepared.last_steps)
    run.params(_params(loaded))
    _log_config(run, loaded)
    if rank.is_first:
        write_environment(run.scratch / "environment")
        run.artifact(run.scratch / "environment")
        if not prepared.restarted:
            log_dataset_input(stored.run_id, "papers", stored.digest, context="training")
            if job.replay is not None:
                log_replay_input(job.training, job.replay)


@contextmanager
def recording(
    run: StepRun, prepared: PreparedJob, rank: Rank
) -> "Iterator[tuple[MlflowRecorder | SilentRecorder, CheckpointUploads | NoUploads]]":
    """This rank's recorder and uploads; one rank of each machine samples that machine."""
    seconds = prepared.job.training.mlflow.system_metrics_seconds
    machine = machine_name(rank)
    already = prepared.last_steps
    sampled = [step for name, step in already.items() if name.startswith("system/")]
    first_sample = broadcast(max(sampled, default=-1) + 1)
    if not rank.is_first:
        with sampling_machine(run, 0.0 if rank.local else seconds, machine, first_sample):
            yield SilentRecorder(), NoUploads()
        return
    uploads = CheckpointUploads(run)
    with MlflowRecorder(
        run, uploads, system_metrics_seconds=seconds, machine=machine, already=already
    ) as recorder:
        yield recorder, uploads


def _fetch_on_all_ranks(run: StepRun, reference: str, rank: Rank) -> StoredDataset:
    """Fetch the dataset on every rank; `latest` is what rank 0 takes for it.

    Raises:
        UserError: A rank cannot fetch it; on every rank.
    """
    with raise_on_all_ranks():
        if rank.is_first:
            stored = fetch_dataset(run.client, reference, run.scratch, names_papers=False)
    newest = broadcast(stored.run_id if rank.is_first else None)
    with raise_on_all_ranks():
        if not rank.is_first:
            wanted = newest if reference == "latest" else reference
            stored = fetch_dataset(run.client, wanted, run.scratch, names_papers=False)
    return stored


def _units(examples: Sequence[PaperText | InstructionItem]) -> int:
    """How many papers examples are of; a split has each once."""
    if isinstance(examples, StoredPapers):
        return len(examples)
    return len({one.unit for one in examples})


def _items(job: Job) -> str | None:
    asks = job.training.model.objective == "instruction"
    return str(len(job.train_papers)) if asks else None


def examples_of(
    stored: StoredDataset, split: str, training: Training
) -> Sequence[PaperText | InstructionItem]:
    """What is learned from or validated on: papers, or instruction items.

    Raises:
        UserError: There is nothing to learn from.
    """
    if training.model.objective != "instruction":
        return papers_of(stored, split, training.scientific_data.sections)
    items = open_split(stored.folder, split, stored.digest)
    if split == "train" and not items:
        raise UserError(
            f"the dataset of run {stored.run_id} has no instruction item in its train split: all "
            "belong to held-out papers; add items of other papers, and run preprocess again"
        )
    return items


def papers_of(
    stored: StoredDataset, split: str, sections: tuple[str, ...] | None
) -> Sequence[PaperText]:
    """The papers of a split, which stay on the disk; only the validation split may be empty.

    Raises:
        UserError: The training split is empty.
    """
    if stored.manifest["splits"][split]["papers"]:
        return open_papers(stored.folder, split, sections, stored.digest)
    if split == "train":
        raise UserError(
            f"the dataset of run {stored.run_id} has no paper in its train split: lower "
            "training.scientific_data.filters or split.validation_fraction and test_fraction, or "
            "add papers, and run preprocess again"
        )
    return []


def _replay(
    run: StepRun, training: Training, stored: StoredDataset, rank: Rank
) -> ReplayTexts | None:
    """The texts of `replay.source`, where they have a share."""
    if training.replay.share:
        held_out: list[PaperText | InstructionItem] = []
        for split in ("validation", "test"):
            held_out += papers_of(stored, split, None)
            if training.model.objective == "instruction":
                held_out += read_split(stored.folder, split)
        return fetch_replay(training, run.scratch, held_out)
    if training.replay.source is not None and rank.is_first:
        say("note: replay.share is 0: replay.source is not read")
    return None


def _studied(training: Training, stored: StoredDataset) -> Sequence[PaperText]:
    """The training papers, where items are learned from and exercises on the papers besides."""
    if training.model.objective != "instruction" or not training.study_texts.share:
        return ()
    return papers_of(stored, "train", training.scientific_data.sections)


def _deepspeed_content(loaded: LoadedConfig) -> dict[str, Any] | None:
    """What the DeepSpeed file says, where it is in use."""
    if not loaded.training.distributed.uses_deepspeed:
        return None
    return read_deepspeed_file(deepspeed_path(loaded.training, loaded.path))


def _deepspeed(loaded: LoadedConfig, job: Job, rank: Rank) -> dict[str, Any] | None:
    """DeepSpeed's settings for this training, where it is in use."""
    if not job.training.distributed.uses_deepspeed:
        return None
    rows = job.training.hyperparameters.batch_size
    assert isinstance(rows, int)
    path = deepspeed_path(loaded.training, loaded.path)
    dtype = job.placement.torch_dtype
    return deepspeed_settings(path, job.training, dtype, ranks=rank.count, micro_batch=rows)


def _checkpoint_root(training: Training, run: StepRun, rank: Rank) -> Path:
    """The folder of this run's checkpoints, made and found writable.

    Raises:
        UserError: It cannot be written, or DeepSpeed's ranks do not share it.
    """
    output = training.output.output_dir
    root = checkpoint_folder(training, rank, run)
    if not (rank.is_first or training.distributed.shares_out):
        # Rank 0 writes for all.
        root = run.scratch / "training"
    with raise_on_all_ranks():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
            if rank.is_first:
                # What an attempt before left when it was killed in the middle of a save.
                remove_leftovers(root)
        except OSError as error:
            raise UserError(
                f"training.output.output_dir is {output!r}, where nothing can be written "
                f"({error.strerror}): give another folder, or null for a temporary one"
            ) from None
    if rank.machines > 1 and training.distributed.shares_out:
        with tempfile.NamedTemporaryFile(dir=root) as mark, raise_on_all_ranks():
            if not Path(broadcast(mark.name)).exists():
                raise UserError(
                    f"training.output.output_dir is {output!r}, which the machines do not share, "
                    "and the ranks of DeepSpeed and FSDP2 write one checkpoint together: give a "
                    "folder on a disk that all of them see"
                )
    return root


def _params(loaded: LoadedConfig) -> dict[str, Any]:
    content = masked(loaded.training.model_dump(mode="json"))
    return {key: value for name, part in content.items() for key, value in _flat(name, part)}


def _flat(name: str, part: Any) -> list[tuple[str, Any]]:
    return list(flatten(name, part)) if isinstance(part, dict) else [(name, part)]


def _log_config(run: StepRun, loaded: LoadedConfig) -> None:
    file = run.scratch / "config.yaml"
    file.write_text(masked(resolved_yaml(loaded.training)), encoding="utf-8")
    run.artifact(file)
