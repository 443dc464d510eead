"""How long a text a model can read, by its class and its configuration."""

from typing import Any

from steps.models.bare import on_meta_device

# Under which name configurations state it; transformers maps older ones (n_positions) to the first.
_LENGTHS = ("max_position_embeddings", "max_seq_len", "max_source_positions")
# What was found, by the configuration: every call of a scorer asks.
_FIRST_POSITIONS: dict[str, int | None] = {}


def longest_text(config: Any) -> int | None:
    """Tokens that a row may hold, special tokens included; None: as many as there are.

    Models with a table of positions cannot read more, those with rotary ones were built for no
    more. State spaces, ALiBi and relative positions know no such length, whatever is stated.

    Args:
        config: A model's configuration as `AutoConfig` reads it; of a model that also sees images,
            the language model's part of it counts.
    """
    text = config.get_text_config()
    stated = next((getattr(text, name) for name in _LENGTHS if hasattr(text, name)), None)
    # Falcon has rotary modules that it does not use then.
    if stated is None or getattr(text, "alibi", False):
        return None
    before = _first_position(text)
    # MPT adds its distances from a table as long as is stated, which it makes when it is called.
    if before is None:
        if text.model_type != "mpt":
            return None
        before = 0
    longest = int(stated) - before
    # Nyströmformer computes at one length alone.
    return min(longest, getattr(text, "segment_means_seq_len", longest))


def _first_position(text: Any) -> int | None:
    """How many positions no token gets; None for a model that has no absolute positions."""
    from transformers import AutoModel

    settings = text.to_json_string(use_diff=False)
    if settings not in _FIRST_POSITIONS:
        with on_meta_device():
            # Without weights, and without the head.
            model = AutoModel.from_config(text, trust_remote_code=False)
        absolute = _has_absolute_places(model)
        _FIRST_POSITIONS[settings] = _positions_before_the_first(model) if absolute else None
    return _FIRST_POSITIONS[settings]


def _has_absolute_places(model: Any) -> bool:
    """Whether a model holds a table, a buffer or a rotation of positions."""
    from torch import nn

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        is_table = not isinstance(module, nn.Linear) and getattr(module, "weight", None) is not None
        if "rotary" in last or "rope" in last:
            return True
        if is_table and ("pos" in last or "wpe" in last):
            return True
    # Relative models number the tokens, too, but look nothing up by that.
    return any("pos" in name and "position_ids" not in name for name, _ in model.named_buffers())


def _positions_before_the_first(model: Any) -> int:
    """Positions that no token gets: RoBERTa's kin count from one past the padding id."""
    methods = ("create_position_ids_from_input_ids", "create_position_ids_from_inputs_embeds")
    return max(
        (
            module.padding_idx + 1
            for module in model.modules()
            if any(hasattr(type(module), method) for method in methods)
        ),
        default=0,
    )
