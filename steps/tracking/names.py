"""Names under which things stand in the tracking store; outside users hold on to them.

The tags that describe a run (`forge.dataset_digest`, `forge.method`, ...) are written by
`StepRun.tag(dataset_digest=...)`, which puts `forge.` in front.
"""

# Aliases of a registered model.
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous_champion"
# Of a registered model: the move of an alias that is under way.
ALIAS_MOVE_TAG = "forge.alias_move"

# Folder of a run's artifacts that holds `checkpoint-N`.
CHECKPOINTS_FOLDER = "checkpoints"

# Of a checkpoint's LoggedModel: where its files lie, their bytes, and those of them that only
# resuming needs; whether those have been removed.
CHECKPOINT_URI_TAG = "forge.checkpoint_uri"
BYTES_TAG = "forge.bytes"
RESUME_ONLY_TAG = "forge.resume_only_bytes"
SLIMMED_TAG = "forge.slimmed"
# Of a LoggedModel or a run: never pruned.
PIN_TAG = "forge.pin"

# Of a finetune run: `HOST:FOLDER` of its checkpoints on a disk, `RUN:STEP` that it went on from,
# what a run that goes on from it has to agree with, and (a parameter, which is written once) the
# run that does.
LOCAL_TAG = "forge.local_checkpoints"
RESUMED_TAG = "forge.resumed_from"
RESUME_KEY_TAG = "forge.resume_key"
RESUMED_BY_PARAM = "forge.resumed_by"
# Of a run of several ranks: what all attempts of its launch have in common.
LAUNCH_TAG = "forge.launch"
# Of a run that is under way: its last sign of life.
HEARTBEAT_TAG = "forge.heartbeat"
