"""Attention for packed rows: one SDPA call per document.

Several documents share one row of tokens, with position ids that restart at each of
them. Their attention must not cross the borders. A block mask costs 36 to 41 % over plain
causal attention at 2,048 tokens; one call per document needs no mask and is faster than
plain causal attention over the row, as it computes only the blocks on the diagonal.

    use_per_document_attention(model)
    model(input_ids=row, position_ids=..., use_cache=False, **document_borders([len_a, len_b]))

No attention mask and `use_cache=False` are part of the bargain: with a cache or a mask of
ones, transformers lets the documents see each other without a word.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


PER_DOCUMENT_SDPA = "per_document_sdpa"

# A mixing layer of another kind (linear attention, chunks) carries state past a border.
_LAYERS_THAT_PACK = {"full_attention", "sliding_attention"}


def register_per_document_attention() -> None:
    """Make `PER_DOCUMENT_SDPA` known to transformers; more calls change nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PER_DOCUMENT_SDPA, per_document_sdpa)
    AttentionMaskInterface.register(PER_DOCUMENT_SDPA, _mask_only_for_padding_or_cache)


def document_borders(lengths: Sequence[int]) -> dict[str, "Tensor"]:
    """The forward argument that tells the attention where documents end.

    It stays on the CPU, where the loop over documents reads it without waiting for the GPU.

    Args:
        lengths: Tokens of each document in the row, in order.

    Returns:
        `{"cu_seq_lens_q": int32 tensor [documents + 1]}`, cumulative from 0, to be passed on
        as keyword arguments of the model.
    """
    import torch

    borders = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    borders[1:] = torch.tensor(lengths, dtype=torch.int32).cumsum(0)
    return {"cu_seq_lens_q": borders}


def per_document_sdpa(
    module: "nn.Module",
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: "Tensor | None" = None,
    position_ids: "Tensor | None" = None,
    **kwargs: Any,
) -> tuple["Tensor", None]:
    """Attention of each document to itself, as transformers' attention interface calls it.

    Without `cu_seq_lens_q` each row is one document. With a mask (padding) or a filled
    cache (generation) there is nothing packed, and transformers' own SDPA does the work.

    Args:
        module: The attention layer that calls; read for its head groups and `is_causal`.
        query: `[batch, heads, tokens, head_dim]`.
        key: `[batch, key-value heads, tokens, head_dim]`, fewer heads than `query` for GQA.
        value: As `key`.
        attention_mask: None for packed rows.
        dropout: Probability of dropping an attention weight.
        scaling: Factor on the scores; None takes `head_dim ** -0.5`.
        is_causal: None takes the layer's own.
        sliding_window: Tokens that a token sees, itself included; None takes all.
        cu_seq_lens_q: Borders of the documents, int32 `[documents + 1]`, see `document_borders`.
        position_ids: Read only to notice packed documents that come without borders.
        **kwargs: What else the model hands to its attention. `branch_borders` is where texts that
            begin alike stand in the row (see `steps.models.branches`).

    Returns:
        `[batch, tokens, heads, head_dim]`, and None for the attention weights.

    Raises:
        ValueError: If documents are packed without borders, the borders do not fit the row,
            or the layer wants soft-capped scores or a position bias, which SDPA per document
            does not compute.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from steps.models.branches import branched_attention

    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise ValueError(f"{PER_DOCUMENT_SDPA} computes no soft cap and no position bias")
    if kwargs.get("branch_borders") is not None:
        borders = kwargs["branch_borders"]
        made = branched_attention(
            query, key, value, borders, scaling=scaling, sliding_window=sliding_window
        )
        return made, None
    tokens = query.shape[2]
    if attention_mask is not None or key.shape[2] != tokens:
        return sdpa_attention_forward(  # type: ignore[no-any-return, no-untyped-call, unused-ignore]
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )

    if cu_seq_lens_q is None:
        _refuse_restarting_positions(position_ids)
        borders = [0, tokens]
    else:
        borders = cu_seq_lens_q.tolist()
        if borders[0] != 0 or borders[-1] != tokens or query.shape[0] != 1:
            raise ValueError(
                f"cu_seq_lens_q runs from {borders[0]} to {borders[-1]}, but the batch is "
                f"{query.shape[0]} row(s) of {tokens} tokens; expected 0 to {tokens} and one row"
            )
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for start, end in itertools.pairwise(borders):
        length = end - start
        window = None
        if sliding_window is not None and length > sliding_window:
            window = _window_mask(length, sliding_window, causal, query.device)
        output = scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            attn_mask=window,
            dropout_p=dropout,
            scale=scaling,
            is_causal=causal and window is None,
            enable_gqa=groups > 1,
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


@contextmanager
def per_document_attention(model: Any) -> Iterator[None]:
    """Switch a model to `PER_DOCUMENT_SDPA` for the time of a block.

    Args:
        model: A `PreTrainedModel`, not wrapped by peft.
    """
    register_per_document_attention()
    before = model.config._attn_implementation
    model.set_attn_implementation(PER_DOCUMENT_SDPA)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def why_not_packed(model: Any) -> str:
    """Why a model cannot pack documents, as far as its class and configuration tell.

    Whether it really can, only a trial tells (see `steps.models.layout`).

    Args:
        model: A `PreTrainedModel`, not wrapped by peft.

    Returns:
        "" where nothing speaks against it.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps its scores"
    if getattr(model, "_is_stateful", False) or not layers <= _LAYERS_THAT_PACK:
        return "its layers carry a state from one document into the next"
    if not model._supports_sdpa:
        return "its attention takes no document borders"
    return ""


def rounding_tolerance(model: Any, hidden: "Tensor") -> float:
    """By which share hidden states may differ through rounding alone.

    Args:
        model: The `PreTrainedModel` that they are from.
        hidden: The hidden states.
    """
    import torch

    # Rounding alone moves a deep bfloat16 model by about a percent; under autocast it
    # computes in 16 bits even where its outputs are float32, and with 8-bit weights in 8.
    coarse = torch.is_autocast_enabled(hidden.device.type) or getattr(
        model, "is_loaded_in_8bit", False
    )
    return 1e-4 if hidden.dtype == torch.float32 and not coarse else 3e-2


def _mask_only_for_padding_or_cache(*args: Any, **kwargs: Any) -> "Tensor | None":
    """No mask for packed rows; transformers' own where padding or a cache calls for one."""
    from transformers.masking_utils import sdpa_mask

    if kwargs.get("attention_mask") is None and kwargs["q_length"] == kwargs["kv_length"]:
        return None
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


def _refuse_restarting_positions(position_ids: "Tensor | None") -> None:
    if position_ids is None or position_ids.dim() != 2:
        return
    if bool((position_ids[:, 1:] <= position_ids[:, :-1]).any()):
        raise ValueError(
            "position_ids restart within a row, so documents are packed, but cu_seq_lens_q is "
            "missing: they would attend to each other. Pass document_borders(lengths)"
        )


def _window_mask(length: int, window: int, causal: bool, device: Any) -> "Tensor":
    """True where a token of a document may look: at most `window - 1` tokens away."""
    import torch

    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    if causal:
        return (distance >= 0) & (distance < window)
    return distance.abs() < window
