"""Names that nothing here calls, each with its caller: vulture takes them for used.

Whoever adds a name says who calls it. It is read by vulture, never run.
"""

# transformers' Trainer and its callbacks.
on_train_begin
on_train_end
on_epoch_begin
on_step_end
on_log
on_save
_get_train_sampler
compute_loss
model_accepts_loss_kwargs
optimizer_cls_and_kwargs
_n_gpu
is_distributed_loading_by_transformers
train_dataset
eval_dataset
ignore_keys
use_cache
padding_side
pad_token
is_loaded_in_4bit
pre_tokenizer
normalizer
decoder
tie_word_embeddings

# peft, of a configuration of its own.
base_model_name_or_path

# The `evaluate` library, which finds the one metric class of each folder.
BitsPerByte
GeneF1
MlmAccuracy
MlmLoss
PseudoBitsPerByte
TokenPerplexity
WordPerplexity
_info
_compute

# MLflow, of a registered version.
load_context
predict

# Python itself: context managers, the import system, raw files under a buffered reader.
readable
readinto
trace
dont_write_bytecode

# datatrove, of the benchmark's tokenizer; and the benchmark's marks.
word_tokenize
bytes_sent

# Written into decision.json, plan.json, the dataset and its report by `asdict` or by name.
relative_gain
papers_better
adjusted_p_value
budget_source
section_index
pmid_key
doi_key
other_key
num_hashes

# Read from papers and manifests of users, and checked, by msgspec.
validation

# Keys of the older layout, which are accepted and reported as unused.
handle_special_tokens
train_file
validation_file
test_file
text_column
label_column
task_type

# Autograd, torch's dispatcher, peft and bitsandbytes look for them.
backward
_should_skip_dynamo
_is_param
CB

# The page templates.
reciprocal_rank
number_columns
names_rows
folded

# Named by docstrings as the list of sections.
SECTION_NAMES

# Types in quoted annotations; that they are imported for something is ruff's business.
Template
ArtifactRepository
ModelVersion

# Versions that earlier commits registered, through steps/training/adapted.py.
load_adapted
probe_difference
computing

# llama.cpp, by way of cyllama: settings of a model, of a context and of a quantisation.
n_gpu_layers
check_tensors
n_ctx
n_batch
n_threads
n_threads_batch
ftype
nthread

# tqdm reads it when a bar is closed.
leave

# Ray Data, of a source of blocks and of its settings.
estimate_inmemory_data_size
get_read_tasks
parallelism
target_max_block_size
preserve_order
shuffle_strategy
print_on_execution_start
