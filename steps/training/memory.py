"""Will it fit? Memory, time and disk of a training run, before any weight is loaded.

    shape = shape_of_model(training.model)
    plan = plan_memory(shape, training, micro_batch=4, length=1024)
    check_fits(shape, training, micro_batch=4, length=1024, budget=16 * GIB)

Nothing here is fitted to measurements. One training step is replayed on tensors that have
a size and no content: the operations of the layers as transformers, peft, bitsandbytes
and `steps.training.losses` perform them, what autograd saves for each, what autocast
copies, what the backward pass allocates and when each tensor dies. The largest sum of
living tensors is the plan. A replay needs neither torch nor a GPU and takes milliseconds;
`tests/training/test_memory_measured.py` holds it against measured tensors.
"""

import heapq
import json
import math
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

from steps import config
from steps.errors import UserError

GIB = 2**30
Family = Literal["llama", "bert"]
Device = Literal["cpu", "cuda"]
NumberFormat = Literal["bfloat16", "float16", "float32"]
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "reserve")

# What a process on the GPU holds beside tensors: the CUDA context with its kernels, cuBLAS's
# workspace (32 MiB from Hopper on), and what the caching allocator loses to rounding.
CUDA_CONTEXT_BYTES = 600 * 2**20
ALLOCATOR_SLACK = 0.04
# Positions whose logits exist at a time: `steps.training.losses.CHUNK`, whose module imports torch.
LOSS_CHUNK = 512
# bitsandbytes: weights to a first-level block, blocks to a second-level one, 8-bit optimiser block,
# and the tensor size below which an 8-bit optimiser keeps its moments in float32.
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
OPTIMIZER_BLOCK = 256
OPTIMIZER_MIN_8BIT = 4096
# What `batch_size: auto` takes at most, and the sizes in GiB that cards come in.
AUTO_ROWS = 16
GPU_SIZES = (16, 24, 32, 40, 48, 80, 96, 141, 192)
# Deeper models are extrapolated from this depth and the one before, see `_replay_any_depth`.
_REPLAYED_LAYERS = 4
# More documents than this are replayed in as many groups; only a fleeting tensor changes by that.
_REPLAYED_DOCUMENTS = 8


# --- The model's shape ---


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer that decide what it costs.

    Attributes:
        name: What people call the model.
        family: "llama" (pre-norm decoder, gated MLP, rotary positions, RMSNorm) or "bert"
            (post-norm encoder, plain MLP, learned positions, LayerNorm, dropout).
        vocabulary: Words, the rows of the embedding.
        width: Hidden size.
        layers: Number of transformer layers.
        heads: Query heads.
        kv_heads: Key and value heads, fewer than `heads` for grouped-query attention.
        head_width: Width of one head.
        inner: Width of the MLP.
        tied: Whether the output head shares the embedding's weights.
        max_positions: Longest context that the positions are made for.
        attention_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the attention's output projection has one.
        mlp_bias: Whether the MLP's projections have one.
        head_norms: Whether queries and keys are normalised per head (Qwen3).
        token_types: Rows of BERT's token type embedding.
        hidden_dropout: Probability in the residual stream (BERT).
        attention_dropout: Probability on the attention weights.
        notes: What the shape does not say exactly.
    """

    name: str
    family: Family
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    tied: bool
    max_positions: int
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    token_types: int = 0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def objective(self) -> Literal["causal", "masked"]:
        """What a model of this family is trained on."""
        return "causal" if self.family == "llama" else "masked"

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(rows * columns + bias for _, rows, columns, bias in _linears(self)) + sum(
            size for _, size in _other_weights(self)
        )


_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "olmo", "olmo2", "stablelm")
_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "electra", "camembert", "esm", "distilbert")
_LLAMA_2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_LLAMA_2_13B = {
    **_LLAMA_2,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_SMOLLM2_135M = {
    **_LLAMA_2,
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_MINILM = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}
# Looked for in the model's name, so that the usual ones need neither hub nor files.
_KNOWN_CONFIGS = {
    r"llama-?2-7b": _LLAMA_2,
    r"llama-?2-13b": _LLAMA_2_13B,
    r"smollm2-135m": _SMOLLM2_135M,
    r"all-minilm-l6": _MINILM,
}


def shape_from_config(content: dict[str, Any], name: str = "this model") -> Shape:
    """Read the shape out of a model's `config.json`.

    Args:
        content: The file's content, or `PreTrainedConfig.to_dict()`.
        name: The model's name, for messages and tables.

    Raises:
        UserError: A size is missing, or the architecture resembles neither LLaMA nor BERT.
    """
    kind = str(content.get("model_type", ""))

    def size(*keys: str) -> int:
        for key in keys:
            if content.get(key) is not None:
                return int(content[key])
        raise UserError(
            f"{name}: its config.json (model_type {kind!r}) has no {' or '.join(keys)}, which the "
            "memory plan needs: give a LLaMA-like or BERT-like model"
        )

    width = size("hidden_size", "dim", "n_embd")
    heads = size("num_attention_heads", "n_heads", "n_head")
    bert = kind in _BERT_LIKE
    if not bert and content.get("intermediate_size") is None:
        raise UserError(
            f"{name}: model_type {kind!r} is neither LLaMA-like nor BERT-like, and its memory "
            f"cannot be planned: give one of {', '.join(_LLAMA_LIKE + _BERT_LIKE)}"
        )
    known = bert or kind in _LLAMA_LIKE
    note = f"model_type {kind!r} is planned as if it were LLaMA: sizes are approximate"
    return Shape(
        name=name,
        family="bert" if bert else "llama",
        vocabulary=size("vocab_size"),
        width=width,
        layers=size("num_hidden_layers", "n_layers", "n_layer"),
        heads=heads,
        kv_heads=int(content.get("num_key_value_heads") or heads),
        head_width=int(content.get("head_dim") or width // heads),
        inner=size("intermediate_size", "hidden_dim"),
        tied=bool(content.get("tie_word_embeddings", bert)),
        max_positions=size("max_position_embeddings", "n_positions"),
        attention_bias=bert or bool(content.get("attention_bias", kind == "qwen2")),
        output_bias=bert or (bool(content.get("attention_bias", False)) and kind != "qwen2"),
        mlp_bias=bert or bool(content.get("mlp_bias", False)),
        head_norms=kind == "qwen3",
        token_types=int(content.get("type_vocab_size", 2)) if bert else 0,
        hidden_dropout=float(content.get("hidden_dropout_prob", 0.1)) if bert else 0.0,
        attention_dropout=float(content.get("attention_probs_dropout_prob", 0.1))
        if bert
        else float(content.get("attention_dropout") or 0.0),
        notes=() if known else (note,),
    )


def shape_of_model(model: config.Model) -> Shape:
    """Find the shape of the model that a configuration names, without its weights.

    In this order: a folder on this machine, a name known by heart (LLaMA-2 7B and 13B, the
    demo's models), the hub's `config.json` (a few kilobytes, or from its cache).

    Raises:
        UserError: The shape is in none of them.
    """
    local = Path(model.name).expanduser() / "config.json"
    if local.is_file():
        return shape_from_config(json.loads(local.read_text(encoding="utf-8")), model.name)
    for pattern, content in _KNOWN_CONFIGS.items():
        if re.search(pattern, f"{model.name} {model.source or ''}".lower()):
            return shape_from_config(content, model.name)
    if model.source not in (None, "hub"):
        raise UserError(
            f"model.name {model.name!r} is not a folder with a config.json, and its shape is not "
            "known by heart: give the folder as training.model.name"
        )
    from steps.training.models import hub_snapshot, read_model_config

    content = read_model_config(hub_snapshot(model, ["config.json"]), model.name)
    return shape_from_config(content, model.name)


def _linears(shape: Shape) -> Iterator[tuple[str, int, int, int]]:
    """Yield (module path, rows, columns, length of the bias) of each linear layer."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    qkv, out, mlp = shape.attention_bias, shape.output_bias, shape.mlp_bias
    for i in range(shape.layers):
        if shape.family == "llama":
            layer = f"model.layers.{i}"
            yield f"{layer}.self_attn.q_proj", queries, shape.width, qkv * queries
            yield f"{layer}.self_attn.k_proj", keys, shape.width, qkv * keys
            yield f"{layer}.self_attn.v_proj", keys, shape.width, qkv * keys
            yield f"{layer}.self_attn.o_proj", shape.width, queries, out * shape.width
            yield f"{layer}.mlp.gate_proj", shape.inner, shape.width, mlp * shape.inner
            yield f"{layer}.mlp.up_proj", shape.inner, shape.width, mlp * shape.inner
            yield f"{layer}.mlp.down_proj", shape.width, shape.inner, mlp * shape.width
        else:
            layer = f"bert.encoder.layer.{i}"
            for name in ("query", "key", "value"):
                yield f"{layer}.attention.self.{name}", queries, shape.width, queries
            yield f"{layer}.attention.output.dense", shape.width, queries, shape.width
            yield f"{layer}.intermediate.dense", shape.inner, shape.width, shape.inner
            yield f"{layer}.output.dense", shape.width, shape.inner, shape.width
    if shape.family == "bert":
        yield "cls.predictions.transform.dense", shape.width, shape.width, shape.width


def _other_weights(shape: Shape) -> Iterator[tuple[str, int]]:
    """Yield (module path, weights) of embeddings, norms and the output head."""
    if shape.family == "llama":
        yield "model.embed_tokens", shape.vocabulary * shape.width
        for i in range(shape.layers):
            yield f"model.layers.{i}.input_layernorm", shape.width
            yield f"model.layers.{i}.post_attention_layernorm", shape.width
            if shape.head_norms:
                yield f"model.layers.{i}.self_attn.q_norm", shape.head_width
                yield f"model.layers.{i}.self_attn.k_norm", shape.head_width
        yield "model.norm", shape.width
        if not shape.tied:
            yield "lm_head", shape.vocabulary * shape.width
        return
    yield "bert.embeddings.word_embeddings", shape.vocabulary * shape.width
    yield "bert.embeddings.position_embeddings", shape.max_positions * shape.width
    yield "bert.embeddings.token_type_embeddings", shape.token_types * shape.width
    yield "bert.embeddings.LayerNorm", 2 * shape.width
    for i in range(shape.layers):
        yield f"bert.encoder.layer.{i}.attention.output.LayerNorm", 2 * shape.width
        yield f"bert.encoder.layer.{i}.output.LayerNorm", 2 * shape.width
    yield "cls.predictions.transform.LayerNorm", 2 * shape.width
    yield "cls.predictions.bias", shape.vocabulary
    if not shape.tied:
        yield "cls.predictions.decoder", shape.vocabulary * shape.width


# --- Plans ---


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one training step at its peak.

    Attributes:
        shape: The model.
        method: "lora", "qlora", "lora_8bit", "dora", "rslora" or "full".
        device: "cpu" or "cuda".
        micro_batch: Rows of one forward pass.
        length: Tokens of a row.
        parts: Bytes of each of `PARTS` at the moment of the peak.
        moment: When the peak is: "forward", "loss", "backward" or "optimizer step".
        trained_parameters: Number of weights that are trained.
        notes: What the reader has to know.
    """

    shape: Shape
    method: str
    device: Device
    micro_batch: int
    length: int
    parts: dict[str, int]
    moment: str
    trained_parameters: int
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Peak in bytes, the reserve included."""
        return sum(self.parts.values())

    @property
    def tensor_bytes(self) -> int:
        """Peak in bytes of tensors alone."""
        return self.total - self.parts["reserve"]


@dataclass(frozen=True)
class DiskPlan:
    """What a training run writes, in bytes.

    Attributes:
        base_model: The pre-trained weights in the cache, once a machine.
        checkpoint: One checkpoint: trained weights and the state of the optimiser.
        local: What stands on the running step's disk at most.
        tracked: What the run leaves in the tracking store before `prune_checkpoints`; None if
            the number of optimiser steps is not known.
    """

    base_model: int
    checkpoint: int
    local: int
    tracked: int | None


@dataclass(frozen=True)
class TimePlan:
    """How long the training takes.

    Attributes:
        tokens: Tokens trained on, all epochs together.
        tokens_per_second: Measured or stated.
        hours: The quotient.
    """

    tokens: int
    tokens_per_second: float
    hours: float


def plan_memory(
    shape: Shape,
    training: config.Training,
    *,
    micro_batch: int,
    length: int,
    device: Device = "cuda",
    world_size: int = 1,
    zero_stage: int = 0,
    number_format: NumberFormat | None = None,
) -> MemoryPlan:
    """Replay one training step and report its peak by part.

    The step is the second one: the optimiser has its moments, and with accumulation the
    gradients of earlier micro-batches stand. Each row holds one document of full length,
    the most expensive case.

    Args:
        shape: The model.
        training: The configuration.
        micro_batch: Rows of one forward pass.
        length: Tokens of a row.
        device: Autocast, dropout and attention keep different tensors on each.
        world_size: Processes, with `zero_stage` for what they share.
        zero_stage: 0 (DDP) to 3, DeepSpeed's partitioning.
        number_format: What is computed in; None takes what `hardware` asks for, and for
            `auto` bfloat16 on a GPU and float32 on a CPU.

    Returns:
        The plan; `parts["reserve"]` is 0 on a CPU.
    """
    computes_in = number_format or _number_format(training.hardware, device)
    job = _Job(
        method=training.qlora.resolved_method,
        bits=training.qlora.bits,
        nested=training.qlora.quantization.bnb_4bit_use_double_quant,
        rank=training.qlora.r,
        dropout=training.qlora.lora_dropout,
        targets=training.qlora.target_modules,
        saved_modules=training.qlora.modules_to_save,
        bias=training.qlora.bias,
        optimizer=_optimizer(training.optimizer.type, device),
        checkpointing=training.memory_optimization.gradient_checkpointing,
        accumulates=training.hyperparameters.gradient_accumulation_steps > 1,
        half=None if computes_in == "float32" else 2,
        device=device,
        rows=micro_batch,
        length=length,
    )
    moments, trained = _replay_any_depth(shape, job)
    scaled = {
        moment: _shared_between_processes(parts, world_size, zero_stage)
        for moment, parts in moments.items()
    }
    moment, parts = max(scaled.items(), key=lambda item: sum(item[1].values()))
    reserve = 0
    if device == "cuda":
        reserve = CUDA_CONTEXT_BYTES + int(ALLOCATOR_SLACK * sum(parts.values()))
    whole = {part: parts.get(part, 0) for part in PARTS} | {"reserve": reserve}
    return MemoryPlan(
        shape=shape,
        method=job.method,
        device=device,
        micro_batch=micro_batch,
        length=length,
        parts=whole,
        moment=moment.partition(":")[0],
        trained_parameters=trained,
        notes=_notes(shape, job, world_size, zero_stage),
    )


def largest_micro_batch(
    shape: Shape,
    training: config.Training,
    budget: int,
    *,
    length: int,
    limit: int = 1024,
    **where: Any,
) -> int:
    """Most rows of `length` tokens whose plan stays within `budget` bytes.

    Args:
        shape: The model.
        training: The configuration.
        budget: Bytes.
        length: Tokens of a row.
        limit: Never more than this.
        **where: `device`, `world_size`, `zero_stage`, `number_format` of `plan_memory`.

    Returns:
        0 if not even one row fits.
    """

    def bytes_for(rows: int) -> int:
        return plan_memory(shape, training, micro_batch=rows, length=length, **where).total

    return _largest(bytes_for, budget, limit)


def longest_context(
    shape: Shape,
    training: config.Training,
    budget: int,
    *,
    micro_batch: int = 1,
    limit: int = 2**20,
    **where: Any,
) -> int:
    """Most tokens a row may have for its plan to stay within `budget` bytes.

    Learned positions (BERT) end where they end; rotary ones can be trained further, so only
    memory limits them here.

    Args:
        shape: The model.
        training: The configuration.
        budget: Bytes.
        micro_batch: Rows of one forward pass.
        limit: Never more than this.
        **where: `device`, `world_size`, `zero_stage`, `number_format` of `plan_memory`.

    Returns:
        0 if not even one token fits.
    """
    if shape.family == "bert":
        limit = min(limit, shape.max_positions)

    def bytes_for(length: int) -> int:
        return plan_memory(shape, training, micro_batch=micro_batch, length=length, **where).total

    return _largest(bytes_for, budget, limit)


def memory_budget(training: config.Training, free_bytes: int | None = None) -> int:
    """Bytes that a plan may take: what the card has free, else the configured size.

    Args:
        training: The configuration; `memory_optimization.gpu_memory_gb` counts GiB.
        free_bytes: `torch.cuda.mem_get_info()[0]` where there is a card. The CUDA context is
            then already taken off, but the plan's reserve counts it: it is added back.
    """
    if free_bytes is not None:
        return free_bytes + CUDA_CONTEXT_BYTES
    return int(training.memory_optimization.gpu_memory_gb * GIB)


def choose_rows(
    shape: Shape, training: config.Training, budget: int, *, length: int, **where: Any
) -> int:
    """The configured micro-batch, or for `auto` the largest that fits, whether one does or not.

    `auto` takes at most `AUTO_ROWS`: beyond that nothing gets faster, and the optimiser
    makes fewer steps.

    Returns:
        At least 1.
    """
    wanted = training.hyperparameters.batch_size
    if wanted != "auto":
        return wanted
    fitting = largest_micro_batch(shape, training, budget, length=length, limit=AUTO_ROWS, **where)
    return max(fitting, 1)


def choose_micro_batch(
    shape: Shape, training: config.Training, budget: int, *, length: int, **where: Any
) -> int:
    """The micro-batch to train with, see `choose_rows`; refused where it cannot fit.

    Raises:
        UserError: It does not fit; see `check_fits`.
    """
    rows = choose_rows(shape, training, budget, length=length, **where)
    check_fits(shape, training, budget, micro_batch=rows, length=length, **where)
    return rows


@dataclass(frozen=True)
class Remedy:
    """A change that makes a run fit.

    Attributes:
        overrides: The dotted overrides to give.
        price: What the change costs, in words.
        total: Planned bytes with it.
    """

    overrides: str
    price: str
    total: int


def check_fits(
    shape: Shape,
    training: config.Training,
    budget: int,
    *,
    micro_batch: int,
    length: int,
    **where: Any,
) -> MemoryPlan:
    """Plan, and refuse what cannot fit.

    Returns:
        The plan that fits.

    Raises:
        UserError: It does not fit; the message names up to three changes that make it fit,
            cheapest first, each of which has been planned.
    """
    plan = plan_memory(shape, training, micro_batch=micro_batch, length=length, **where)
    if plan.total <= budget:
        return plan
    found = remedies(shape, training, budget, micro_batch=micro_batch, length=length, **where)
    options = "; ".join(
        f"({i}) {remedy.overrides} [{remedy.total / GIB:.1f} GiB; {remedy.price}]"
        for i, remedy in enumerate(found, 1)
    )
    raise UserError(
        f"{shape.name}, {plan.method}, {micro_batch} x {length} tokens needs "
        f"{plan.total / GIB:.1f} GiB, and there are {budget / GIB:.1f} GiB. "
        + (f"Cheapest ways to make it fit: {options}" if found else "No setting makes it fit: ")
        + (
            ""
            if found
            else "take a smaller model or a larger GPU (memory_optimization.gpu_memory_gb)"
        )
    )


def remedies(
    shape: Shape,
    training: config.Training,
    budget: int,
    *,
    micro_batch: int,
    length: int,
    **where: Any,
) -> list[Remedy]:
    """The three cheapest changes, or sets of changes, that make a run fit.

    Cheapest first: those that leave the result as it is, then those that cost time, then
    those that change what is learned. Sets are tried only where no part of them is enough,
    and each set in its mildest form that fits. What is planned is the printed override.
    Where fewer than three are enough, the smallest card that holds the run as it is follows.
    """
    start = with_overrides(
        training,
        f"training.hyperparameters.batch_size={micro_batch} training.model.max_length={length}",
    )

    def total_with(changes: Sequence[_Change]) -> int:
        changed = with_overrides(start, " ".join(change.overrides for change in changes))
        rows, tokens = changed.hyperparameters.batch_size, changed.model.max_length
        assert isinstance(rows, int)
        return plan_memory(shape, changed, micro_batch=rows, length=tokens, **where).total

    plan_here = plan_memory(shape, start, micro_batch=micro_batch, length=length, **where)
    kinds = _possible_changes(training, micro_batch, length)
    sets = [set(names) for size in (1, 2, 3, 4) for names in combinations(kinds, size)]
    sets.sort(key=lambda names: sum(kinds[name][0].cost for name in names))
    found: dict[frozenset[str], Remedy] = {}
    for names in sets:
        if {"lora", "qlora"} <= names or any(fewer <= names for fewer in found):
            continue
        strengths = [kinds[name] for name in sorted(names, key=list(kinds).index)]
        if total_with([changes[-1] for changes in strengths]) > budget:
            continue
        for chosen in sorted(product(*strengths), key=lambda set_: sum(c.cost for c in set_)):
            total = total_with(chosen)
            if total <= budget:
                overrides = " ".join(change.overrides for change in chosen)
                price = ", ".join(change.price for change in chosen)
                found[frozenset(names)] = Remedy(overrides, price, total)
                break
        if len(found) == 3:
            break
    cards = [gib for gib in GPU_SIZES if budget < plan_here.total <= gib * GIB]
    if len(found) < 3 and cards and plan_here.device == "cuda":
        overrides = f"training.memory_optimization.gpu_memory_gb={cards[0]}"
        found[frozenset({"card"})] = Remedy(overrides, f"a GPU of {cards[0]} GB", plan_here.total)
    return list(found.values())


def with_overrides(training: config.Training, overrides: str) -> config.Training:
    """A configuration with dotted overrides applied to it, and checked."""
    content = training.model_dump()
    for assignment in overrides.split():
        key, _, text = assignment.partition("=")
        _, *sections, leaf = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        try:
            section[leaf] = json.loads(text)
        except json.JSONDecodeError:
            section[leaf] = text
    return config.Training.model_validate(content)


def disk_plan(
    shape: Shape, training: config.Training, *, optimizer_steps: int | None = None
) -> DiskPlan:
    """Bytes that a run writes.

    Args:
        shape: The model.
        training: The configuration.
        optimizer_steps: Steps of the whole run, to count its checkpoints.
    """
    plan = plan_memory(shape, training, micro_batch=1, length=8)
    stored = 2 if training.qlora.adapts else 4
    checkpoint = 4 * plan.trained_parameters + plan.parts["optimizer"]
    kept = training.output.save_total_limit
    saves = None
    if optimizer_steps is not None and training.logging.save_strategy == "steps":
        saves = math.ceil(optimizer_steps / training.logging.save_steps)
    elif training.logging.save_strategy == "epoch":
        saves = math.ceil(training.hyperparameters.num_epochs)
    elif training.logging.save_strategy == "no":
        saves = 0
    # One more than kept: the new checkpoint is whole before the old one goes.
    local = (kept + 1 if kept is not None else (saves or 1)) * checkpoint
    tracked = None if saves is None else saves * checkpoint + 4 * plan.trained_parameters
    return DiskPlan(shape.parameters * stored, checkpoint, local, tracked)


def time_plan(tokens: int, tokens_per_second: float) -> TimePlan:
    """Hours for `tokens` (all epochs together) at a measured or stated rate.

    Raises:
        UserError: The rate is not positive.
    """
    if not tokens_per_second > 0:
        raise UserError(f"a rate of {tokens_per_second} tokens per second: it must be positive")
    return TimePlan(tokens, tokens_per_second, tokens / tokens_per_second / 3600)


def format_table(plan: MemoryPlan, budget: int | None = None) -> str:
    """The plan as plain text, one part a line."""
    lines = [
        f"{plan.shape.name}: {plan.method}, {plan.micro_batch} x {plan.length} tokens, "
        f"{plan.device}, peak in the {plan.moment}"
    ]
    lines += [f"  {part:<12} {plan.parts[part] / GIB:9.3f} GiB" for part in PARTS]
    room = "" if budget is None else f"  of {budget / GIB:.1f}"
    lines.append(f"  {'total':<12} {plan.total / GIB:9.3f} GiB{room}")
    return "\n".join([*lines, *(f"  note: {note}" for note in plan.notes)])


@dataclass(frozen=True)
class _Change:
    """A change of the configuration, what it costs in words, and in comparison to others."""

    overrides: str
    price: str
    cost: float


def _possible_changes(
    training: config.Training, micro_batch: int, length: int
) -> dict[str, list[_Change]]:
    """The kinds of change that this configuration leaves room for, each from mild to strong."""
    qlora = training.qlora
    accumulation = training.hyperparameters.gradient_accumulation_steps
    kinds: dict[str, list[_Change]] = {"rows": [], "length": []}
    halvings = range(1, micro_batch.bit_length())
    for rows, n in ((micro_batch >> n, n) for n in halvings):
        steps = accumulation * math.ceil(micro_batch / rows)
        overrides = (
            f"training.hyperparameters.batch_size={rows} "
            f"training.hyperparameters.gradient_accumulation_steps={steps}"
        )
        kinds["rows"].append(_Change(overrides, "same result, a little slower", 0.05 + 0.02 * n))
    if "8bit" not in training.optimizer.type and training.optimizer.type != "auto":
        overrides = "training.optimizer.type=paged_adamw_8bit"
        kinds["optimizer"] = [_Change(overrides, "moments in 8 bits", 0.2)]
    if not training.memory_optimization.gradient_checkpointing:
        overrides = "training.memory_optimization.gradient_checkpointing=true"
        kinds["checkpointing"] = [_Change(overrides, "same result, a third more time", 0.3)]
    if qlora.adapts and qlora.resolved_method in ("lora", "lora_8bit"):
        overrides = "training.qlora.method=qlora"
        kinds["qlora"] = [_Change(overrides, "base weights in 4 bits", 0.6)]
    if qlora.adapts and qlora.r > 8:
        kinds["rank"] = [_Change("training.qlora.r=8", "a smaller adapter", 0.8)]
    for n in (1, 2, 3, 4):
        if length >> n >= 128:
            overrides = f"training.model.max_length={length >> n}"
            kinds["length"].append(_Change(overrides, "papers in shorter windows", 1 + 0.3 * n))
    if not qlora.adapts:
        for name, price, cost in (
            ("lora", "adapters in place of all weights", 2.0),
            ("qlora", "adapters on a base in 4 bits", 2.4),
        ):
            overrides = f"training.qlora.enabled=true training.qlora.method={name}"
            kinds[name] = [_Change(overrides, price, cost)]
    return {name: changes for name, changes in kinds.items() if changes}


def _largest(bytes_for: Callable[[int], int], budget: int, limit: int) -> int:
    """Largest n in 1..limit with `bytes_for(n) <= budget`, for a nearly linear function."""
    low, low_bytes = 1, bytes_for(1)
    if low_bytes > budget:
        return 0
    high = limit + 1
    slope = bytes_for(2) - low_bytes
    while high - low > 1:
        # Along the line from the largest known n that fits; always inside the open interval.
        guess = low + (budget - low_bytes) // max(slope, 1)
        guess = min(max(guess, low + 1), high - 1)
        guess_bytes = bytes_for(guess)
        slope = math.ceil((guess_bytes - low_bytes) / (guess - low))
        if guess_bytes <= budget:
            low, low_bytes = guess, guess_bytes
        else:
            high = guess
    return low


def _number_format(hardware: config.Hardware, device: Device) -> NumberFormat:
    if hardware.fp16:
        return "float16"
    if hardware.bf16 == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    return "bfloat16" if hardware.bf16 else "float32"


def _optimizer(wanted: str, device: Device) -> str:
    """The rule of `steps.training.trainer.optimizer_name`, whose module imports torch."""
    name = {"adamw": "adamw_torch", "adam": "adamw_torch"}.get(wanted.lower(), wanted.lower())
    if name == "auto":
        return "paged_adamw_8bit" if device == "cuda" else "adamw_torch_fused"
    return name


def _shared_between_processes(
    parts: dict[str, int], world_size: int, zero_stage: int
) -> dict[str, int]:
    """What one of several processes holds; DDP adds its communication buckets."""
    shared = dict(parts)
    if world_size == 1:
        return shared
    stages = {"optimizer": 1, "gradients": 2, "weights": 3, "adapter": 3}
    for part, stage in stages.items():
        if zero_stage >= stage:
            shared[part] = math.ceil(shared.get(part, 0) / world_size)
    if zero_stage == 0:
        shared["gradients"] = 2 * shared.get("gradients", 0)
    return shared


def _notes(shape: Shape, job: "_Job", world_size: int, zero_stage: int) -> tuple[str, ...]:
    notes = list(shape.notes)
    if shape.family == "bert" and job.length > shape.max_positions:
        notes.append(f"{job.length} tokens are more than the {shape.max_positions} positions")
    elif job.length > shape.max_positions:
        notes.append(f"the model was trained on contexts of up to {shape.max_positions} tokens")
    if job.optimizer.startswith("paged"):
        notes.append("the optimiser's paged state may move to the host's memory under pressure")
    if job.method == "dora":
        notes.append("DoRA rebuilds its weights in each pass: sizes are approximate")
    if world_size > 1:
        kind = f"ZeRO-{zero_stage}" if zero_stage else "DDP"
        notes.append(
            f"one of {world_size} processes, {kind}; communication buffers of ZeRO not counted"
        )
    return tuple(notes)


# --- The replay: tensors with a size and no content ---


@dataclass(frozen=True)
class _Job:
    """What of the configuration decides memory."""

    method: str
    bits: int
    nested: bool
    rank: int
    dropout: float
    targets: str | tuple[str, ...]
    saved_modules: tuple[str, ...]
    bias: str
    optimizer: str
    checkpointing: bool
    accumulates: bool
    half: int | None
    device: Device
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def adapts(self) -> bool:
        return self.method != "full"


@lru_cache(maxsize=256)
def _replay_any_depth(shape: Shape, job: _Job) -> tuple[dict[str, dict[str, int]], int]:
    """Peak parts of each moment of a step, and the number of trained weights.

    All layers are alike, so what lives at a given moment (during the loss, in the backward
    pass of the last layer, …) grows by the same bytes with each layer: two depths give
    every other, exactly.
    """
    if shape.layers <= _REPLAYED_LAYERS + 1:
        return _Step(replace(shape, notes=()), job).run()
    fewer, fewer_trained = _Step(replace(shape, layers=_REPLAYED_LAYERS - 1), job).run()
    more, more_trained = _Step(replace(shape, layers=_REPLAYED_LAYERS), job).run()
    further = shape.layers - _REPLAYED_LAYERS
    moments = {
        moment: {
            part: size + further * (size - fewer[moment].get(part, 0))
            for part, size in more[moment].items()
        }
        for moment in more
    }
    return moments, more_trained + further * (more_trained - fewer_trained)


class _Meter:
    """Sums up what lives, by part, and remembers the peak of each moment."""

    def __init__(self) -> None:
        self.live = dict.fromkeys(PARTS, 0)
        self.total = 0
        self.moment = "forward"
        self.peaks: dict[str, int] = {}
        self.parts: dict[str, dict[str, int]] = {}

    def enter(self, moment: str) -> None:
        self.moment = moment
        self.note()

    def add(self, part: str, size: int) -> None:
        self.live[part] += size
        self.total += size
        if size > 0:
            self.note()

    def note(self) -> None:
        if self.total > self.peaks.get(self.moment, -1):
            self.peaks[self.moment] = self.total
            self.parts[self.moment] = dict(self.live)


class _Storage:
    """Memory that one or more tensors look at; it is freed with the last of them."""

    __slots__ = ("meter", "part", "size", "users")

    def __init__(self, meter: _Meter, part: str, size: int) -> None:
        self.meter, self.part, self.size, self.users = meter, part, size, 0
        meter.add(part, size)

    def move_to(self, part: str) -> None:
        self.meter.live[self.part] -= self.size
        self.meter.live[part] += self.size
        self.part = part


class _Tensor:
    """A size in a storage.

    Python's reference counts are torch's: when the last one goes, the memory is free. So a
    local variable of the replay lives as long as its model in the real code.
    """

    __slots__ = ("elements", "node", "storage", "width")

    def __init__(
        self, storage: _Storage, elements: int, width: int, node: "_Node | _Leaf | None" = None
    ) -> None:
        self.storage, self.elements, self.width, self.node = storage, elements, width, node
        storage.users += 1

    def __del__(self) -> None:
        self.storage.users -= 1
        if self.storage.users == 0:
            self.storage.meter.add(self.storage.part, -self.storage.size)

    def view(self) -> "_Tensor":
        """The same memory, outside the graph."""
        return _Tensor(self.storage, self.elements, self.width)


Backward = Callable[[_Tensor], list[_Tensor | None]]


class _Node:
    """An operation in autograd's graph."""

    __slots__ = ("inputs", "kept", "number", "run")

    def __init__(self, number: int, inputs: "list[_Node | _Leaf | None]", run: Backward) -> None:
        self.number, self.inputs = number, inputs
        self.run: Backward | None = run
        # Attributes of a custom function's `ctx`: freed with the graph, not after the node's turn.
        self.kept: list[_Tensor] = []


class _Leaf:
    """A trained weight, which collects its gradient."""

    __slots__ = ("gradient", "part", "size", "width")

    def __init__(self, size: int, width: int, part: str = "gradients") -> None:
        self.size, self.width, self.part = size, width, part
        self.gradient: _Tensor | None = None


class _Recomputed(Exception):
    """The recomputation has made the last saved tensor: torch stops it there, too."""


class _Frame:
    """A checkpointed layer: what it saves is counted, dropped, and made again when asked for."""

    def __init__(self) -> None:
        self.handles: list[weakref.ref[Callable[[], _Tensor]]] = []
        self.layer: Callable[[], object] | None = None
        self.made: dict[int, _Tensor] | None = None
        self.position = 0


class _Tape:
    """The operations, as torch's autograd and autocast treat them.

    Sizes are in elements, `width` is bytes an element. Each operation allocates its result,
    saves what its derivative needs, and knows what its backward pass allocates.
    """

    def __init__(self, meter: _Meter, half: int | None, device: Device, kv_width: int) -> None:
        self.meter, self.half, self.device, self.kv_width = meter, half, device, kv_width
        self.part = "activations"
        self.number = 0
        self.frame: _Frame | None = None
        self.weight_copies: dict[int, _Tensor] = {}

    def new(self, elements: int, width: int, part: str | None = None) -> _Tensor:
        return _Tensor(_Storage(self.meter, part or self.part, elements * width), elements, width)

    def attach(self, out: _Tensor, inputs: Sequence[_Tensor], run: Backward) -> _Tensor:
        """Put an operation into the graph, if anything above it is trained."""
        if any(x.node is not None for x in inputs):
            self.number += 1
            out.node = _Node(self.number, [x.node for x in inputs], run)
        return out

    def save(self, tensor: _Tensor) -> Callable[[], _Tensor | None]:
        """Keep a tensor for the backward pass; the result hands it out, once."""
        frame = self.frame
        if frame is None:
            held = [tensor.view()]
            return held.pop
        if frame.made is None:
            handle = partial(self.fetch, frame, len(frame.handles))
            frame.handles.append(weakref.ref(handle))
            return handle
        # What nobody will ask for, as its part of the graph is gone, is not kept either.
        if frame.handles[frame.position]() is not None:
            frame.made[frame.position] = tensor.view()
        frame.position += 1
        if frame.position == len(frame.handles):
            raise _Recomputed
        return lambda: None

    def fetch(self, frame: _Frame, index: int) -> _Tensor:
        if frame.made is None:
            assert frame.layer is not None
            frame.made = {}
            outer = self.frame, self.weight_copies, self.part
            self.frame, self.weight_copies, self.part = frame, {}, "activations"
            try:
                frame.layer()
            except _Recomputed:
                pass
            finally:
                self.frame, self.weight_copies, self.part = outer
        return frame.made.pop(index)

    def checkpoint(self, layer: Callable[[_Tensor], _Tensor], hidden: _Tensor) -> _Tensor:
        """Run a layer as torch's non-reentrant checkpoint does."""
        frame = self.frame = _Frame()
        out = layer(hidden)
        self.frame = None
        frame.layer = lambda: layer(hidden)
        return out

    def operation(
        self,
        out: _Tensor,
        inputs: Sequence[_Tensor],
        saved: Sequence[_Tensor] = (),
        scratch: int = 0,
    ) -> _Tensor:
        """An operation whose backward pass makes one new tensor for each input that wants one.

        Args:
            out: The result.
            inputs: What it was computed from.
            saved: What its derivative needs.
            scratch: Bytes that its backward pass takes for itself.
        """
        wanted = any(x.node is not None for x in inputs)
        sizes = [(x.elements, x.width) if x.node is not None else None for x in inputs]
        handles = [self.save(x) for x in saved] if wanted else []

        def run(gradient: _Tensor) -> list[_Tensor | None]:
            values = [take() for take in handles]
            own = self.new(scratch, 1)
            results = [None if size is None else self.new(*size) for size in sizes]
            del values, own
            return results

        return self.attach(out, inputs, run)

    # Elementwise and copying operations.

    def cast(self, x: _Tensor, width: int) -> _Tensor:
        """`to(dtype)`: nothing where the number format is that already."""
        return x if x.width == width else self.operation(self.new(x.elements, width), [x])

    def copy(self, x: _Tensor) -> _Tensor:
        """`clone`: its gradient is the one it is given."""
        return self.attach(self.new(x.elements, x.width), [x], lambda g: [g.view()])

    def scale(self, x: _Tensor) -> _Tensor:
        """Times a number, or any elementwise operation that saves nothing."""
        return self.operation(self.new(x.elements, x.width), [x])

    def rearrange(self, x: _Tensor) -> _Tensor:
        """A transposed view: no memory, but its gradient is laid out anew."""
        return self.operation(x.view(), [x])

    def slice(self, x: _Tensor, elements: int) -> _Tensor:
        """A part of a tensor, a view; its gradient is as large as the whole."""
        return self.operation(_Tensor(x.storage, elements, x.width), [x])

    def concatenate(self, pieces: Sequence[_Tensor]) -> _Tensor:
        """A new tensor, whose gradient is handed on in views."""
        out = self.new(sum(piece.elements for piece in pieces), pieces[0].width)
        sizes = [piece.elements for piece in pieces]
        return self.attach(out, pieces, lambda g: [_Tensor(g.storage, n, g.width) for n in sizes])

    def add(self, a: _Tensor, b: _Tensor) -> _Tensor:
        """A sum in the wider number format; its gradient is handed on, cast where it must be."""
        widths = (a.width, b.width)
        out = self.new(max(a.elements, b.elements), max(widths))

        def run(g: _Tensor) -> list[_Tensor | None]:
            return [g.view() if w == g.width else self.new(g.elements, w) for w in widths]

        return self.attach(out, [a, b], run)

    def multiply(self, a: _Tensor, b: _Tensor) -> _Tensor:
        """A product, of which one factor may be broadcast."""
        out = self.new(max(a.elements, b.elements), max(a.width, b.width))
        needed = [x.node is not None for x in (a, b)]
        sizes = [(x.elements, x.width) for x in (a, b)]
        handles = [self.save(other) for other, need in ((b, needed[0]), (a, needed[1])) if need]

        def run(g: _Tensor) -> list[_Tensor | None]:
            values = [take() for take in handles]
            # Both products have the full size before a broadcast factor's is summed up.
            full = [self.new(g.elements, g.width) if need else None for need in needed]
            del values
            return [
                None if x is None else x if (x.elements, x.width) == size else self.new(*size)
                for x, size in zip(full, sizes, strict=True)
            ]

        return self.attach(out, [a, b], run)

    def activation(self, x: _Tensor) -> _Tensor:
        """SiLU or GELU, whose derivative needs the argument."""
        return self.operation(self.new(x.elements, x.width), [x], saved=[x])

    def softmax(self, x: _Tensor) -> _Tensor:
        """Softmax, its logarithm, or a reciprocal root: the derivative needs the result."""
        out = self.new(x.elements, x.width)
        return self.operation(out, [x], saved=[out])

    def dropout(self, x: _Tensor, probability: float) -> _Tensor:
        """Dropout: the CPU keeps a mask in the tensor's own number format, CUDA one byte."""
        if probability == 0.0:
            return x
        mask = self.new(x.elements, x.width if self.device == "cpu" else 1)
        return self.operation(self.new(x.elements, x.width), [x], saved=[mask])

    def embedding(self, table: _Tensor, elements: int) -> _Tensor:
        """Rows of a table, whose gradient is as large as the table."""
        return self.operation(self.new(elements, table.width), [table])

    # Norms.

    def rms_norm(self, x: _Tensor, weight: _Tensor, rows: int) -> _Tensor:
        """`LlamaRMSNorm.forward`, line by line."""
        hidden = self.cast(x, 4)
        squares = self._square(hidden)
        mean = self.operation(self.new(rows, 4), [squares])
        del squares
        shifted = self.scale(mean)
        del mean
        inverse = self.softmax(shifted)
        del shifted
        hidden = self.multiply(hidden, inverse)
        hidden = self.cast(hidden, x.width)
        return self.multiply(weight, hidden)

    def _square(self, x: _Tensor) -> _Tensor:
        # The derivative of a power makes the lower power and its multiple on the way.
        size = x.elements * x.width
        return self.operation(self.new(x.elements, x.width), [x], saved=[x], scratch=2 * size)

    def layer_norm(self, x: _Tensor, weight: _Tensor, rows: int) -> _Tensor:
        """LayerNorm; autocast computes it in float32 on CUDA. `weight` holds the bias, too."""
        in_float = self.half is not None and self.device == "cuda"
        source = self.cast(x, 4) if in_float else x
        factor = self.cast(weight, 4) if in_float else weight
        out = self.new(source.elements, source.width)
        # The mean and the deviation of each row.
        statistics = self.new(2 * rows, source.width)
        return self.operation(out, [source, factor], saved=[source, factor, statistics])

    # Matrix products.

    def for_product(self, x: _Tensor) -> _Tensor:
        """What autocast makes of an argument of a matrix product.

        The copy of a float32 weight that is trained is cached until the forward pass ends.
        """
        if self.half is None or x.width == self.half:
            return x
        if not isinstance(x.node, _Leaf):
            return self.cast(x, self.half)
        if id(x) not in self.weight_copies:
            self.weight_copies[id(x)] = self.cast(x, self.half)
        return self.weight_copies[id(x)]

    def linear(self, x: _Tensor, weight: _Tensor, bias: _Tensor | None, rows: int) -> _Tensor:
        """`rows` vectors times a weight."""
        outputs = weight.elements // (x.elements // rows)
        # The caller's tensors outlive autocast's copies of them: they keep their names.
        offset = [] if bias is None else [self.for_product(bias)]
        factor = self.for_product(weight)
        vectors = self.for_product(x)
        out = self.new(rows * outputs, vectors.width)
        return self.product(out, vectors, factor, offset)

    def product(
        self, out: _Tensor, a: _Tensor, b: _Tensor, offset: Sequence[_Tensor] = ()
    ) -> _Tensor:
        """A matrix product: each factor is saved for the other's gradient."""
        saved = [x for x, other in ((a, b), (b, a)) if other.node is not None]
        return self.operation(out, [a, b, *offset], saved=saved)

    def quantized_linear(
        self, x: _Tensor, weights: int, outputs: int, bits: int, rows: int
    ) -> _Tensor:
        """A product with a frozen 4-bit or 8-bit weight, which is dequantised for its time."""
        width = self.half or 4
        vectors = self.cast(x, width)
        out = self.new(rows * outputs, width)
        # The dequantised weight, and with double quantisation its scales.
        scratch = weights * width + (4 * math.ceil(weights / NF4_BLOCK) if bits == 4 else 0)
        plain = self.new(scratch, 1)
        del plain
        self.operation(out, [vectors], scratch=scratch)
        recomputing = self.frame is not None and self.frame.made is not None
        if bits == 8 and isinstance(out.node, _Node) and not recomputing:
            # bitsandbytes hangs the input on `ctx`, where checkpointing does not reach it.
            out.node.kept.append(vectors.view())
        return out

    # Attention.

    def rotate(self, x: _Tensor, cosines: _Tensor, sines: _Tensor) -> _Tensor:
        """`apply_rotary_pos_emb` of queries or keys."""
        straight = self.multiply(x, cosines)
        first, second = self.slice(x, x.elements // 2), self.slice(x, x.elements // 2)
        turned = self.concatenate([self.scale(second), first])
        crossed = self.multiply(turned, sines)
        del turned, first, second
        return self.add(straight, crossed)

    def attention(
        self, q: _Tensor, k: _Tensor, v: _Tensor, heads: int, rows: int, dropout: float
    ) -> _Tensor:
        """`per_document_sdpa`: one call for each of the rows, and the outputs joined."""
        length = k.elements // self.kv_width // rows
        calls = min(rows, _REPLAYED_DOCUMENTS)
        outputs = []
        for call in range(calls):
            together = rows * (call + 1) // calls - rows * call // calls
            parts = [
                x if rows == 1 else self.slice(x, x.elements // rows * together) for x in (q, k, v)
            ]
            outputs.append(self._sdpa(parts, heads, together, length, dropout))
            del parts
        return self.concatenate(outputs)

    def _sdpa(
        self, parts: list[_Tensor], heads: int, documents: int, length: int, dropout: float
    ) -> _Tensor:
        q, k, v = (self.for_product(part) for part in parts)
        if self.device == "cpu" and dropout > 0:
            weights = heads * length**2 * documents
            return self._sdpa_with_all_weights(q, k, v, weights, dropout)
        out = self.new(q.elements, q.width)
        normalisers = self.new(heads * length * documents, 4)
        # Flash attention on CUDA sums the queries' gradient up in float32.
        scratch = 4 * q.elements if self.device == "cuda" else 0
        return self.operation(out, [q, k, v], saved=[q, k, v, out, normalisers], scratch=scratch)

    def _sdpa_with_all_weights(
        self, q: _Tensor, k: _Tensor, v: _Tensor, weights: int, dropout: float
    ) -> _Tensor:
        """SDPA's plain path, which dropout on the CPU takes: length x length weights a head."""
        queries, keys, values = self.cast(q, 4), self.cast(k, 4), self.cast(v, 4)
        queries, keys = self.scale(queries), self.scale(keys)
        scores = self.product(self.new(weights, 4), queries, keys)
        del queries, keys
        probabilities = self.softmax(scores)
        del scores
        probabilities = self.dropout(probabilities, dropout)
        # SDPA hands back a cast copy of the weights, which nobody reads.
        unread = self.new(weights if q.width != 4 else 0, q.width)
        out = self.cast(self.product(self.new(q.elements, 4), probabilities, values), q.width)
        del unread
        return out

    # The backward pass.

    def backward(self, root: _Tensor, layer_of: Callable[[int], str]) -> None:
        """Autograd's engine: latest operation first, gradients summed where paths meet.

        Args:
            root: The loss.
            layer_of: The moment that an operation's number belongs to.
        """
        assert root.node is not None
        waiting: dict[_Node | _Leaf, int] = {}
        stack = [root.node]
        seen = {root.node}
        while stack:
            node = stack.pop()
            for source in node.inputs if isinstance(node, _Node) else ():
                if source is not None:
                    waiting[source] = waiting.get(source, 0) + 1
                    if source not in seen:
                        seen.add(source)
                        stack.append(source)
        del seen
        buffers: dict[_Node | _Leaf, _Tensor] = {root.node: self.new(1, root.width)}
        assert isinstance(root.node, _Node)
        ready = [(-root.node.number, root.node)]
        while ready:
            _, node = heapq.heappop(ready)
            self.meter.enter(layer_of(node.number))
            gradient = buffers.pop(node)
            assert node.run is not None
            results = node.run(gradient)
            # What the operation saved dies with its closure.
            node.run = None
            del gradient
            for i, source in enumerate(node.inputs):
                if source is None:
                    continue
                part = results[i]
                results[i] = None
                assert part is not None
                self._receive(buffers, source, part)
                del part
                waiting[source] -= 1
                if waiting[source] == 0:
                    if isinstance(source, _Leaf):
                        self._accumulate(source, buffers.pop(source))
                    else:
                        heapq.heappush(ready, (-source.number, source))

    def _receive(
        self, buffers: dict[_Node | _Leaf, _Tensor], node: _Node | _Leaf, part: _Tensor
    ) -> None:
        held = buffers.get(node)
        if held is None:
            buffers[node] = part
        elif held.storage.users > 1:
            # Someone else still reads it, so the sum needs memory of its own.
            buffers[node] = self.new(held.elements, held.width)

    def _accumulate(self, leaf: _Leaf, gradient: _Tensor) -> None:
        if leaf.gradient is not None:
            return
        if gradient.storage.users == 1:
            gradient.storage.move_to(leaf.part)
            leaf.gradient = gradient
        else:
            leaf.gradient = self.new(gradient.elements, gradient.width, leaf.part)


# --- The layers ---


@dataclass
class _Linear:
    """A linear layer: its weight (None where quantised), and its adapter."""

    rows: int
    columns: int
    weight: _Tensor | None = None
    bias: _Tensor | None = None
    lora: tuple[_Tensor, _Tensor] | None = None
    magnitude: _Tensor | None = None


@dataclass
class _Step:
    """One training step of a model, replayed."""

    shape: Shape
    job: _Job
    meter: _Meter = field(default_factory=_Meter)
    leaves: list[_Leaf] = field(default_factory=list)
    constant: list[_Tensor] = field(default_factory=list)
    linears: dict[str, _Linear] = field(default_factory=dict)
    others: dict[str, _Tensor] = field(default_factory=dict)

    def run(self) -> tuple[dict[str, dict[str, int]], int]:
        """Return the parts at the peak of each moment, and the number of trained weights."""
        kv_width = self.shape.kv_heads * self.shape.head_width
        self.tape = _Tape(self.meter, self.job.half, self.job.device, kv_width)
        self.meter.enter("loading")
        self._load()
        moments = sum(_optimizer_bytes(self.job.optimizer, leaf) for leaf in self.leaves)
        self.constant.append(self.tape.new(moments, 1, "optimizer"))
        for _ in range(2 if self.job.accumulates else 1):
            self._forward_and_backward()
        self.meter.enter("optimizer step")
        self._optimizer_step()
        self.meter.peaks.pop("loading")
        self.meter.parts.pop("loading")
        return self.meter.parts, sum(leaf.size for leaf in self.leaves)

    # Weights.

    def _load(self) -> None:
        job, shape = self.job, self.shape
        for path, rows, columns, bias in _linears(shape):
            layer = self.linears[path] = _Linear(rows, columns)
            layer.weight = self._linear_weight(path, rows, columns)
            if bias:
                layer.bias = self._weight(path, bias, trained=job.bias == "all")
            if job.adapts and not self._is_saved(path) and _is_target(path, job.targets):
                self._add_lora(layer)
        for path, size in _other_weights(shape):
            self.others[path] = self._weight(path, size)
        if shape.tied:
            self._tie()
        if shape.family == "bert":
            # The buffers `position_ids` and `token_type_ids`.
            self.constant.append(self.tape.new(2 * shape.max_positions, 8, "weights"))

    def _tie(self) -> None:
        """The output head is the embedding, unless a copy of it is trained."""
        head, embedding = "lm_head", "model.embed_tokens"
        if self.shape.family == "bert":
            head, embedding = "cls.predictions.decoder", "bert.embeddings.word_embeddings"
        self.others[head] = self.others[embedding]
        if self._is_saved(head):
            size = self.others[embedding].elements
            self.others[head] = self._trained(size, self.job.half or 4, "adapter")

    def _is_saved(self, path: str) -> bool:
        """Whether peft trains a copy of this weight's module, or of one around it."""
        parents = [path[: end.start()] for end in re.finditer(r"\.|$", path)]
        return self.job.adapts and any(
            parent.endswith(name) for parent in parents for name in self.job.saved_modules
        )

    def _linear_weight(self, path: str, rows: int, columns: int) -> _Tensor | None:
        """The weight of a linear layer; None where it is stored quantised."""
        weights = rows * columns
        if self.job.bits == 16:
            return self._weight(path, weights)
        nested = self.job.nested
        stored = _nf4_bytes(weights, nested) if self.job.bits == 4 else weights + 4 * rows
        self.constant.append(self.tape.new(stored, 1, "weights"))
        if self._is_saved(path):
            return self._trained(weights, self.job.half or 4, "adapter")
        return None

    def _weight(self, path: str, size: int, trained: bool = False) -> _Tensor:
        """A weight of the base model, or the copy of it that is trained in its place."""
        if not self.job.adapts:
            return self._trained(size, 4, "weights")
        width = self.job.half or 4
        if trained:
            return self._trained(size, width, "weights")
        weight = self.tape.new(size, width, "weights")
        self.constant.append(weight)
        return self._trained(size, width, "adapter") if self._is_saved(path) else weight

    def _trained(self, size: int, width: int, part: str) -> _Tensor:
        leaf = _Leaf(size, width)
        self.leaves.append(leaf)
        tensor = self.tape.new(size, width, part)
        tensor.node = leaf
        self.constant.append(tensor)
        return tensor

    def _add_lora(self, layer: _Linear) -> None:
        """Peft casts adapters to float32, the master copy."""
        rank = self.job.rank
        layer.lora = (
            self._trained(rank * layer.columns, 4, "adapter"),
            self._trained(layer.rows * rank, 4, "adapter"),
        )
        if self.job.method == "dora":
            layer.magnitude = self._trained(layer.rows, 4, "adapter")

    # One micro-batch.

    def _forward_and_backward(self) -> None:
        self.starts: list[int] = []
        self.meter.enter("forward")
        loss = self._llama() if self.shape.family == "llama" else self._bert()
        self.tape.weight_copies = {}
        self.tape.backward(loss, self._moment_of)

    def _moment_of(self, number: int) -> str:
        """Which part of the model an operation's backward pass belongs to."""
        if number > self.end:
            return "backward: head"
        if number >= self.starts[-1]:
            return "backward: last layer"
        if number >= self.starts[1] if len(self.starts) > 1 else False:
            return "backward: middle"
        return "backward: first layer"

    def _embedded_words(self, table: _Tensor) -> _Tensor:
        words = self.tape.embedding(table, self.job.tokens * self.shape.width)
        if self.job.checkpointing and words.node is None:
            # Transformers lets the first checkpointed layer have an input that wants a gradient.
            words.node = _Leaf(words.elements, words.width, "activations")
        return words

    def _through_layers(self, layer: Callable[[int, _Tensor], _Tensor], hidden: _Tensor) -> _Tensor:
        for i in range(self.shape.layers):
            self.starts.append(self.tape.number + 1)
            if self.job.checkpointing:
                hidden = self.tape.checkpoint(lambda x, i=i: layer(i, x), hidden)  # type: ignore[misc]
            else:
                hidden = layer(i, hidden)
        self.end = self.tape.number
        return hidden

    def _llama(self) -> _Tensor:
        tape, shape, job = self.tape, self.shape, self.job
        inputs = tape.new(4 * job.tokens, 8)
        hidden = self._llama_model()
        tape.part = "logits"
        self.meter.enter("loss")
        loss = self._chunked_loss(hidden, self.others["lm_head"])
        tape.part = "activations"
        del inputs, shape
        return loss

    def _llama_model(self) -> _Tensor:
        """`LlamaModel.forward`."""
        tape, shape, job = self.tape, self.shape, self.job
        embedded = self._embedded_words(self.others["model.embed_tokens"])
        angles = job.tokens * shape.head_width
        cosines, sines = tape.new(angles, embedded.width), tape.new(angles, embedded.width)
        hidden = self._through_layers(
            lambda i, x: self._llama_layer(i, x, cosines, sines), embedded
        )
        return tape.rms_norm(hidden, self.others["model.norm"], job.tokens)

    def _llama_layer(self, i: int, hidden: _Tensor, cosines: _Tensor, sines: _Tensor) -> _Tensor:
        """`LlamaDecoderLayer.forward`."""
        tape, tokens, path = self.tape, self.job.tokens, f"model.layers.{i}"
        residual = hidden
        hidden = tape.rms_norm(hidden, self.others[f"{path}.input_layernorm"], tokens)
        hidden = self._llama_attention(path, hidden, cosines, sines)
        hidden = tape.add(residual, hidden)
        residual = hidden
        hidden = tape.rms_norm(hidden, self.others[f"{path}.post_attention_layernorm"], tokens)
        hidden = self._llama_mlp(f"{path}.mlp", hidden)
        return tape.add(residual, hidden)

    def _llama_attention(
        self, path: str, hidden: _Tensor, cosines: _Tensor, sines: _Tensor
    ) -> _Tensor:
        tape = self.tape
        q = tape.rearrange(self._linear(f"{path}.self_attn.q_proj", hidden))
        k = tape.rearrange(self._linear(f"{path}.self_attn.k_proj", hidden))
        if self.shape.head_norms:
            heads = self.job.tokens * self.shape.heads
            groups = self.job.tokens * self.shape.kv_heads
            q = tape.rms_norm(q, self.others[f"{path}.self_attn.q_norm"], heads)
            k = tape.rms_norm(k, self.others[f"{path}.self_attn.k_norm"], groups)
        v = tape.rearrange(self._linear(f"{path}.self_attn.v_proj", hidden))
        q, k = self._rotated(q, k, cosines, sines)
        out = self._attended(q, k, v)
        return self._linear(f"{path}.self_attn.o_proj", out)

    def _rotated(
        self, q: _Tensor, k: _Tensor, cosines: _Tensor, sines: _Tensor
    ) -> tuple[_Tensor, _Tensor]:
        return self.tape.rotate(q, cosines, sines), self.tape.rotate(k, cosines, sines)

    def _attended(self, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
        shape = self.shape
        return self.tape.attention(q, k, v, shape.heads, self.job.rows, shape.attention_dropout)

    def _llama_mlp(self, path: str, hidden: _Tensor) -> _Tensor:
        gate = self.tape.activation(self._linear(f"{path}.gate_proj", hidden))
        return self._linear(
            f"{path}.down_proj",
            self.tape.multiply(gate, self._linear(f"{path}.up_proj", hidden)),
        )

    def _bert(self) -> _Tensor:
        """`BertForMaskedLM.forward`, with the logits of all positions."""
        tape, shape, job = self.tape, self.shape, self.job
        inputs = tape.new(5 * job.tokens, 8)
        hidden = self._through_layers(self._bert_layer, self._bert_embeddings())
        hidden = self._linear("cls.predictions.transform.dense", hidden)
        hidden = tape.activation(hidden)
        norm = self.others["cls.predictions.transform.LayerNorm"]
        hidden = tape.layer_norm(hidden, norm, job.tokens)
        self.meter.enter("loss")
        tape.part = "logits"
        logits = tape.linear(
            hidden,
            self.others["cls.predictions.decoder"],
            self.others["cls.predictions.bias"],
            job.tokens,
        )
        loss = self._cross_entropy(logits)
        tape.part = "activations"
        del inputs, shape
        return loss

    def _bert_embeddings(self) -> _Tensor:
        tape, shape, tokens = self.tape, self.shape, self.job.tokens
        size = tokens * shape.width
        table = "bert.embeddings."
        words = self._embedded_words(self.others[f"{table}word_embeddings"])
        types = tape.embedding(self.others[f"{table}token_type_embeddings"], size)
        embedded = tape.add(words, types)
        positions = tape.embedding(self.others[f"{table}position_embeddings"], size)
        embedded = tape.add(embedded, positions)
        embedded = tape.layer_norm(embedded, self.others[f"{table}LayerNorm"], tokens)
        return tape.dropout(embedded, shape.hidden_dropout)

    def _bert_layer(self, i: int, hidden: _Tensor) -> _Tensor:
        """`BertLayer.forward`."""
        path = f"bert.encoder.layer.{i}"
        attended = self._bert_output(
            f"{path}.attention.output", self._bert_attention(path, hidden), hidden
        )
        inner = self.tape.activation(self._linear(f"{path}.intermediate.dense", attended))
        return self._bert_output(f"{path}.output", inner, attended)

    def _bert_attention(self, path: str, hidden: _Tensor) -> _Tensor:
        q, k, v = (
            self.tape.rearrange(self._linear(f"{path}.attention.self.{name}", hidden))
            for name in ("query", "key", "value")
        )
        return self._attended(q, k, v)

    def _bert_output(self, path: str, hidden: _Tensor, residual: _Tensor) -> _Tensor:
        tape = self.tape
        hidden = self._linear(f"{path}.dense", hidden)
        hidden = tape.dropout(hidden, self.shape.hidden_dropout)
        return tape.layer_norm(
            tape.add(hidden, residual), self.others[f"{path}.LayerNorm"], self.job.tokens
        )

    # A linear layer with its adapter.

    def _linear(self, path: str, x: _Tensor) -> _Tensor:
        """`peft.tuners.lora.Linear.forward`, `Linear4bit` and `Linear8bitLt`."""
        layer, tape, tokens = self.linears[path], self.tape, self.job.tokens
        quantised = layer.weight is None
        if layer.weight is None:
            weights = layer.rows * layer.columns
            result = tape.quantized_linear(x, weights, layer.rows, self.job.bits, tokens)
        else:
            result = tape.linear(x, layer.weight, layer.bias, tokens)
        if layer.lora is None:
            return result
        if quantised and self.job.bits == 4:
            result = tape.copy(result)
        # Peft leaves the cast to autocast for quantised layers, but asks only for CUDA's.
        asks_autocast = quantised and self.job.device == "cuda" and self.job.half is not None
        master = x if asks_autocast else tape.cast(x, 4)
        if layer.magnitude is not None:
            return self._dora(layer, master, result)
        a, b = layer.lora
        dropped = tape.dropout(master, self.job.dropout)
        low = tape.linear(dropped, a, None, tokens)
        del dropped
        update = tape.linear(low, b, None, tokens)
        del low
        update = tape.scale(update)
        return tape.add(result, tape.cast(update, result.width))

    def _dora(self, layer: _Linear, x: _Tensor, result: _Tensor) -> _Tensor:
        """Peft's DoRA: the norm of the merged weight is computed anew in each forward pass."""
        assert layer.lora is not None
        assert layer.magnitude is not None
        tape, tokens = self.tape, self.job.tokens
        a, b = layer.lora
        vectors = tape.dropout(x, self.job.dropout)
        weights = layer.rows * layer.columns
        # The adapter's product, made by sending the identity through it, and the plain weight.
        identity = tape.new(layer.columns**2, 4)
        low = tape.linear(identity, a, None, layer.columns)
        product = tape.cast(tape.linear(low, b, None, layer.columns), 4)
        shared = layer.weight is not None and layer.weight.width == 4
        plain = layer.weight if shared and layer.weight is not None else tape.new(weights, 4)
        scaled = tape.new(weights, 4)
        merged = tape.new(weights, 4)
        del scaled, merged
        low = tape.linear(vectors, a, None, tokens)
        update = tape.linear(low, b, None, tokens)
        again = tape.linear(vectors, plain, None, tokens) if self.job.dropout else result
        update = tape.scale(tape.multiply(layer.magnitude, update))
        update = tape.add(tape.multiply(layer.magnitude, again), update)
        del identity, low, product, plain, again
        return tape.cast(tape.add(result, update), result.width)

    # Losses.

    def _chunked_loss(self, hidden: _Tensor, head: _Tensor) -> _Tensor:
        """`steps.training.losses.linear_cross_entropy_sum`, variable by variable."""
        tape, shape, job = self.tape, self.shape, self.job
        targets = job.rows * (job.length - 1)
        picked = tape.slice(hidden, hidden.elements)
        picked = self._index(picked, targets * shape.width)
        width, product = picked.width, self.job.half or picked.width
        gradient_of_hidden = tape.new(picked.elements, width)
        trains_head = head.node is not None
        gradient_of_head = tape.new(head.elements, 4, "gradients") if trains_head else None
        plain_head = tape.cast(head.view(), width)
        logits = gradient = None
        # All full chunks after the second are like it.
        full_chunks, rest = divmod(targets, LOSS_CHUNK)
        for chunk in [LOSS_CHUNK] * min(full_chunks, 2) + [rest] * (rest > 0):
            logits = self._chunk_logits(chunk, plain_head, width, product)
            # `logsumexp` subtracts the maximum in a tensor of its own.
            shifted = tape.new(logits.elements, 4)
            del shifted
            gradient = tape.cast(logits.view(), width)
            self._chunk_product(chunk * shape.width, gradient, plain_head, product)
            if trains_head:
                copies = tape.new(chunk * (shape.vocabulary + shape.width) * (width != product), 2)
                summed = tape.new(head.elements, product)
                del copies
                as_float = tape.cast(summed, 4)
                del summed, as_float
        del logits, gradient, plain_head
        loss = tape.new(1, 4)
        size, head_size = picked.elements, head.elements

        def run(g: _Tensor) -> list[_Tensor | None]:
            return [tape.new(size, width), tape.new(head_size, 4) if trains_head else None]

        tape.attach(loss, [picked, head], run)
        if isinstance(loss.node, _Node):
            # Held by `ctx` until the graph goes, so through the whole backward pass.
            loss.node.kept.append(gradient_of_hidden)
            if gradient_of_head is not None:
                loss.node.kept.append(gradient_of_head)
        return loss

    def _index(self, x: _Tensor, elements: int) -> _Tensor:
        """`hidden[scored]`, a copy; its gradient is put back into zeros."""
        return self.tape.operation(self.tape.new(elements, x.width, "activations"), [x])

    def _chunk_logits(self, chunk: int, head: _Tensor, width: int, product: int) -> _Tensor:
        """`(rows @ head.T).float()`, with autocast's copies of both factors."""
        tape = self.tape
        rows_copy = tape.new(chunk * self.shape.width if width != product else 0, product)
        head_copy = tape.cast(head, product)
        raw = tape.new(chunk * self.shape.vocabulary, product)
        del rows_copy, head_copy
        return tape.cast(raw, 4)

    def _chunk_product(self, elements: int, gradient: _Tensor, head: _Tensor, product: int) -> None:
        """`gradient @ head`, likewise."""
        tape = self.tape
        gradient_copy, head_copy = tape.cast(gradient, product), tape.cast(head, product)
        result = tape.new(elements, product)
        del gradient_copy, head_copy, result

    def _cross_entropy(self, logits: _Tensor) -> _Tensor:
        """`CrossEntropyLoss`, which autocast computes in float32."""
        tape = self.tape
        scores = tape.cast(logits, 4)
        del logits
        logarithms = tape.softmax(scores)
        del scores
        return tape.operation(tape.new(1, 4), [logarithms], saved=[logarithms])

    # The optimiser.

    def _optimizer_step(self) -> None:
        if self.job.optimizer != "adamw_torch":
            return
        sizes = [leaf.size for leaf in self.leaves]
        if self.job.device == "cuda":
            # The `foreach` form takes the roots of all second moments at once.
            self.tape.new(sum(sizes), 4, "optimizer")
        else:
            self.tape.new(2 * max(sizes), 4, "optimizer")


def _nf4_bytes(weights: int, nested: bool) -> int:
    """Bytes of a weight in bitsandbytes' 4-bit format, with its scales and its table.

    Two weights a byte and one scale for 64; the scale is float32, or with double
    quantisation one byte, with a float32 for 256 of them and one offset. Each weight has its
    own table of the 16 values, and of the scale's 256.
    """
    blocks = math.ceil(weights / NF4_BLOCK)
    scales = blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) + 4 if nested else 4 * blocks
    tables = 16 * 4 + (256 * 4 if nested else 0)
    return math.ceil(weights / 2) + scales + tables


def _optimizer_bytes(optimizer: str, leaf: _Leaf) -> int:
    """Bytes of one trained weight's optimiser state: its moments, in the weight's precision."""
    if "8bit" in optimizer:
        if leaf.size < OPTIMIZER_MIN_8BIT:
            return 8 * leaf.size
        # Each moment a byte a weight, and a float32 scale for each block.
        return 2 * (leaf.size + 4 * math.ceil(leaf.size / OPTIMIZER_BLOCK))
    if optimizer == "sgd":
        return 0
    moments = 1 if optimizer.startswith(("adagrad", "rmsprop", "lion", "adafactor")) else 2
    return moments * leaf.size * leaf.width


def _is_target(path: str, targets: str | tuple[str, ...]) -> bool:
    """Peft's rule: all linear layers, a pattern for the whole name, or the ends of names."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in targets)
