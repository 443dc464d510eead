"""Names under which things stand in the tracking store; outside users hold on to them.

The tags that describe a run (`forge.dataset_digest`, `forge.method`, ...) are written by
`StepRun.tag(dataset_digest=...)`, which puts `forge.` in front.
"""

from typing import Final

# The longest value of a tag that every store takes.
MAX_TAG = 4000

# Aliases of a registered model.
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous_champion"
# Of a registered model: the move of an alias that is under way.
ALIAS_MOVE_TAG = "forge.alias_move"

# Artifacts of a run, by the step that leaves them: the dataset; `checkpoint-N` and the adapter;
# an evaluation's results; a comparison's decision; a plan of what to prune; a release's forms;
# the trials of a sweep.
DATASET_FOLDER = "dataset"
CHECKPOINTS_FOLDER = "checkpoints"
ADAPTER_FOLDER = "adapter"
METRICS_FILE = "metrics.json"
PER_PAPER_FILE = "per_paper.parquet"
GENERAL_FILE = "general.parquet"
TASKS_FILE = "tasks.parquet"
DECISION_FILE = "decision.json"
PLAN_FILE = "plan.json"
RELEASE_FOLDER = "release"
SWEEP_FILE = "sweep.json"
FIDELITY_FILE = "fidelity.json"

# Of every run: its step; by what its result is found again; how it ended, if badly.
STEP_TAG = "forge.step"
# Of a run that `mlflow run` made in "Default" and the step left: the step's own run.
MOVED_TAG = "forge.moved_to"
CACHE_KEY_TAG = "forge.cache_key"
CACHE_PARTS_TAG = "forge.cache_parts"
ERROR_TAG = "forge.error"
EXIT_CODE_TAG = "forge.exit_code"
# What a run worked on and made.
DATASET_DIGEST_TAG = "forge.dataset_digest"
SPLIT_TAG = "forge.split"
OBJECTIVE_TAG = "forge.objective"
METRIC_VERSION_TAG = "forge.metric_version"
BASE_MODEL_TAG = "forge.base_model"
BASE_SHA256_TAG = "forge.base_sha256"
BASE_CONFIG_TAG = "forge.base_config_sha256"
MODEL_VERSION_TAG = "forge.model_version"
CHAMPION_AFTER_TAG = "forge.champion_after"
# Of a decision: what it asked. Of a preprocess run, a parameter `forge.alpha.MODEL.N`: the N-th
# decision on its test papers.
QUESTIONS_TAG = "forge.questions"
ALPHA_PARAM = "forge.alpha"
# Of a finetune run and a version: digest of the adapter folder. Of an evaluation: digests of the
# files with its results, as JSON by name.
ADAPTER_DIGEST_TAG = "forge.adapter_sha256"
RESULTS_DIGEST_TAG = "forge.results_sha256"
# Of a version that is a released form: what it was made of, and which form it is.
PARENT_TAG = "forge.released_from"
RELEASE_FORM_TAG = "forge.release_form"
# Of an evaluation: papers of the split that the model was trained on, and why that is unknown.
TRAINED_PAPERS_TAG = "forge.trained_papers_scored"
LINEAGE_GAP_TAG = "forge.lineage_gap"
# And what a budget has left out: parts measured and parts wanted, as JSON by the phase.
CUT_TAG = "forge.cut"

# Of a checkpoint's LoggedModel: where its files lie, their bytes, and those of them that only
# resuming needs; whether those have been removed.
CHECKPOINT_URI_TAG = "forge.checkpoint_uri"
BYTES_TAG = "forge.bytes"
RESUME_ONLY_TAG = "forge.resume_only_bytes"
SLIMMED_TAG = "forge.slimmed"
# Of a run: all its checkpoints stay; of a checkpoint's LoggedModel: that one stays.
# `forge.pin.checkpoint-N` of a run: checkpoint N stays. The value `false` takes a pin back.
PIN_TAG = "forge.pin"

# Of a finetune run: `HOST:FOLDER` of its checkpoints on a disk, `RUN:STEP` that it went on from,
# what a run that goes on from it has to agree with, and (a parameter, which is written once) the
# run that does.
LOCAL_TAG = "forge.local_checkpoints"
RESUMED_TAG = "forge.resumed_from"
RESUME_KEY_TAG = "forge.resume_key"
RESUMED_BY_PARAM = "forge.resumed_by"
# Of one that goes on on another number of processes: for how many its configuration's gradient
# accumulation is counted.
BATCH_PROCESSES_TAG = "forge.batch_processes"
# Of a run of several ranks: what all attempts of its launch have in common.
LAUNCH_TAG = "forge.launch"
# Of a run that is under way: its last sign of life.
HEARTBEAT_TAG = "forge.heartbeat"
# Of a finetune run that is a trial of a sweep: its number and, as JSON, what it was trained with.
# And of one that did not reach its end: the cache key that it would have got, and whether the sweep
# has stopped it (`stopped`) or the same would happen again (`failed`).
TRIAL_TAG = "forge.trial"
TRIAL_VALUES_TAG = "forge.trial_values"
TRIAL_KEY_TAG = "forge.trial_key"
TRIAL_STATE_TAG = "forge.trial_state"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
# Of a run that ended badly: the kind of its error.
ERROR_TYPE_TAG = "forge.error_type"
