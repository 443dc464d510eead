"""How a causal model makes logits of hidden states, found by trying.

A loss or a score over a large vocabulary is computed for some positions, or some words, at a
time. For that the model has to be taken apart: what its output head gets, the head's weight and
bias, and what is done with the logits afterwards (Cohere scales them, Granite divides, Gemma 2
caps them, Phi has a bias, ModernBERT's decoder puts a layer in front). Families differ, and names
of settings more so; so the model itself is asked, once, with two short forward passes.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steps.models.sharded import whole_shape

_PROBE_TOKENS = 4
# Powers of two, which every number format and scale keeps exact: in the range that a cap leaves
# alone, in the usual range, and far beyond any cap.
_SMALL, _HUGE = 2.0**-10, 2.0**40
_PROBE_LOGITS = (_SMALL, _HUGE, 1.0, -1.0, 16.0, -16.0, 64.0, -64.0)


@dataclass(frozen=True)
class LogitHead:
    """What stands between a causal model's hidden states and its logits.

    logits = cap(scale * (hidden @ weight.T + bias)), with cap(x) = soft_cap * tanh(x / soft_cap)

    Attributes:
        model: The `PreTrainedModel`, not wrapped by peft.
        follows_decoder: Whether the head gets the decoder's hidden states as they are; else
            something of the model's own stands between them.
        scale: Factor on the logits.
        soft_cap: Limit that they approach, or None.
    """

    model: Any
    follows_decoder: bool
    scale: float = 1.0
    soft_cap: float | None = None

    @property
    def weight(self) -> Tensor:
        """`[vocabulary, width]`; where rows are trained alone, with those rows in their place."""
        weight: Tensor = output_head(self.model).weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """`[vocabulary]`, or None."""
        bias: Tensor | None = _plain(output_head(self.model)).bias
        return bias

    def hidden_states(self, plain_forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """What the head gets: `[rows, tokens, width]`.

        Args:
            plain_forward: The model's own `forward`.
            *args: Its arguments.
            **kwargs: Its arguments.
        """
        if self.follows_decoder:
            hidden: Tensor = self.model.get_decoder()(*args, **kwargs).last_hidden_state
            return hidden
        received: list[Tensor] = []

        def keep(rows: Tensor) -> Tensor:
            received.append(rows)
            # Nothing is left for the model to scale or cap.
            return rows[..., :0]

        with _forward_of(output_head(self.model), keep):
            plain_forward(*args, **kwargs)
        return received[0]


def scale_and_cap(logits: Tensor, scale: float, soft_cap: float | None) -> Tensor:
    """The model's logits of those that its linear layer makes, in their place.

    Args:
        logits: Of the linear layer, float32.
        scale: See `LogitHead`.
        soft_cap: See `LogitHead`.
    """
    if scale != 1.0:
        logits *= scale
    if soft_cap is not None:
        logits.div_(soft_cap).tanh_().mul_(soft_cap)
    return logits


def output_head(model: Any) -> Any:
    """What makes a model's logits: its head, or the copy that peft trains in the head's place."""
    head = model.get_output_embeddings()
    # Where nothing has imported peft, which takes seconds, nothing of it is in the model.
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(head, peft.utils.ModulesToSaveWrapper):
        return head.modules_to_save[head.active_adapters[0]]
    return head


def _plain(head: Any) -> Any:
    """The layer itself, of a head some of whose rows peft trains (`trainable_token_indices`)."""
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(head, peft.utils.other.TrainableTokensWrapper):
        return head.original_module
    return head


def find_logit_head(model: Any) -> LogitHead | None:
    """Take a causal model's head apart.

    Args:
        model: A causal `PreTrainedModel`, not wrapped by peft, on any device.

    Returns:
        None where the logits are anything else than a linear layer, scaled and capped: an
        adapter or a quantised weight in the head, words that are masked out, two heads.
    """
    if type(_plain(output_head(model))) is not nn.Linear:
        return None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _tried(model)
    finally:
        model.train(was_training)


def _tried(model: Any) -> LogitHead | None:
    head = output_head(model)
    vocabulary = whole_shape(head.weight)[0]
    device = head.weight.device
    embedded = whole_shape(model.get_input_embeddings().weight)[0]
    tokens = torch.arange(_PROBE_TOKENS, device=device)[None] % embedded
    planted = torch.zeros(vocabulary, device=device)
    values = torch.tensor(_PROBE_LOGITS, device=device)[:vocabulary]
    planted[: len(values)] = values
    received: list[Tensor] = []

    def plant(rows: Tensor) -> Tensor:
        received.append(rows)
        return planted.expand(*rows.shape[:-1], vocabulary).clone()

    with _forward_of(head, plant), _output_of(model.get_decoder()) as decoded:
        logits = model(input_ids=tokens, use_cache=False).logits
    if len(received) != 1 or logits.shape != (1, _PROBE_TOKENS, vocabulary):
        return None
    # A slice of the decoder's output lies in the same memory; whatever is computed of it does not.
    follows_decoder = [_memory(received[0])] == [_memory(hidden) for hidden in decoded]
    if not _has_content(logits):
        # A model of sizes alone, whose memory is planned: a cap is known by its setting.
        soft_cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return LogitHead(model, follows_decoder, soft_cap=soft_cap)
    found = _scale_and_cap(planted, logits[0])
    return None if found is None else LogitHead(model, follows_decoder, *found)


def _scale_and_cap(planted: Tensor, logits: Tensor) -> tuple[float, float | None] | None:
    """What the model has done with planted logits, if it is a scale and a soft cap."""
    made = logits.float()
    scale = float(made[0, 0]) / _SMALL
    limit = float(made[0, 1])
    soft_cap = None
    expected = scale * planted
    if limit != scale * _HUGE:
        soft_cap = limit
        expected = limit * torch.tanh(expected / limit)
    same = torch.allclose(made, expected.expand_as(made), rtol=1e-5, atol=1e-8)
    return (scale, soft_cap) if same else None


def _has_content(tensor: Tensor) -> bool:
    from torch._subclasses import FakeTensor

    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def _memory(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


@contextmanager
def _output_of(decoder: Any) -> Iterator[list[Tensor]]:
    """The hidden states that a decoder gives in the block, one each time that it is called."""
    made: list[Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is not None:
            made.append(hidden)

    if decoder is None:
        yield made
        return
    hook = decoder.register_forward_hook(keep)
    try:
        yield made
    finally:
        hook.remove()


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have a module compute something else for the time of a block."""
    had_own = "forward" in vars(module)
    before = module.forward
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if had_own:
            module.forward = before  # type: ignore[method-assign]
        else:
            del module.forward
