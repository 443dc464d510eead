"""The shape of a model: the sizes that decide what it costs, without its weights."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steps.config.sections import Model
from steps.errors import UserError

Family = Literal["llama", "bert"]


class CannotPlan(UserError):
    """The architecture is not one whose memory can be worked out."""


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
        return sum(rows * columns + bias for _, rows, columns, bias in linears(self)) + sum(
            size for _, size in other_weights(self)
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
        CannotPlan: A size is missing, or the architecture resembles neither LLaMA nor BERT.
    """
    kind = str(content.get("model_type", ""))

    def size(*keys: str) -> int:
        for key in keys:
            if content.get(key) is not None:
                return int(content[key])
        raise CannotPlan(
            f"{name}: its config.json (model_type {kind!r}) has no {' or '.join(keys)}, which the "
            "memory plan needs: give a LLaMA-like or BERT-like model"
        )

    width = size("hidden_size", "dim", "n_embd")
    heads = size("num_attention_heads", "n_heads", "n_head")
    bert = kind in _BERT_LIKE
    if not bert and content.get("intermediate_size") is None:
        raise CannotPlan(
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


def shape_of_model(model: Model) -> Shape:
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
            "built into this project: give the folder as training.model.name"
        )
    from steps.models.sources import hub_snapshot, read_model_config

    content = read_model_config(hub_snapshot(model, ["config.json"]), model.name)
    return shape_from_config(content, model.name)


def linears(shape: Shape) -> Iterator[tuple[str, int, int, int]]:
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


def other_weights(shape: Shape) -> Iterator[tuple[str, int]]:
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
