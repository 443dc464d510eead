"""Which parts of a model a text passes through.

A model may hold more than its text runs through: a tower for images, a pooler, heads for other
tasks, layers whose weights are read but that are never called. An adapter there would learn
nothing, and DDP waits for its gradient for ever. Which parts they are shows when a text passes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from steps.errors import UserError, first_line

# Tokens of the text; a short one shows it as well as a long one.
TOKENS = 8
_REACHED = "_forge_reached_layers"


def reached_layers(model: Any, dtype: Any) -> set[str]:
    """Names of the linear layers whose output the logits of a text depend on.

    Of layers that stand beside each other under a number (blocks, experts) all are taken where
    one is: which experts are called depends on the text.

    Args:
        model: A `PreTrainedModel`, quantised or not.
        dtype: Number format of the computation, a `torch.dtype`.

    Raises:
        UserError: The model does not compute in that format.
    """
    import torch

    if _REACHED in vars(model):
        known: set[str] = vars(model)[_REACHED]
        return known
    marks: dict[str, Any] = {}

    def marked(name: str, output: Any) -> Any:
        # A zero that changes nothing, and that autograd finds again behind the logits.
        marks[name] = torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
        return output + marks[name]

    layers = linear_layers(model)
    handles = [
        module.register_forward_hook(
            lambda _module, _input, output, name=name: marked(name, output)
        )
        for name, module in layers.items()
    ]
    try:
        leaves = _leaves_behind_the_logits(model, dtype)
    finally:
        for handle in handles:
            handle.remove()
    reached = {_without_numbers(name) for name, mark in marks.items() if id(mark) in leaves}
    return {name for name in layers if _without_numbers(name) in reached}


def remember_reached_layers(model: Any, layers: set[str]) -> None:
    """Tell a model that a text cannot be read with which of its layers are reached.

    Args:
        model: A `PreTrainedModel` without weights.
        layers: From `reached_layers` of another one of its kind.
    """
    vars(model)[_REACHED] = layers


def reached_parameters(model: Any, dtype: Any) -> list[Any]:
    """The parameters that the logits of a text depend on, of those that require a gradient.

    Raises:
        UserError: The model does not compute in that format.
    """
    leaves = _leaves_behind_the_logits(model, dtype)
    return [parameter for parameter in model.parameters() if id(parameter) in leaves]


def _leaves_behind_the_logits(model: Any, dtype: Any) -> set[int]:
    """The `id` of each tensor that a backward pass would leave a gradient in."""
    import torch

    # Nobody goes the way back, so what it would need is not kept.
    nothing_kept = torch.autograd.graph.saved_tensors_hooks(
        lambda _: None, lambda _: torch.empty(0)
    )
    with torch.enable_grad(), nothing_kept:
        waiting = [_read_a_text(model, dtype).grad_fn]
    leaves: set[int] = set()
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [earlier for earlier, _ in node.next_functions]
    return leaves


def linear_layers(model: Any) -> dict[str, Any]:
    """The layers of a model that an adapter fits on, by name."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _read_a_text(model: Any, dtype: Any) -> Any:
    """Logits of a short text, as in training."""
    import torch

    # Nyströmformer computes at one length alone.
    length = getattr(model.config, "segment_means_seq_len", TOKENS)
    ids = (torch.arange(length) % TOKENS)[None].to(model.device)
    # Without content all is of one number format, and autocast knows no such device.
    mixed = dtype != torch.float32 and model.device.type != "meta"
    # Each weight is read once: kept in the other format, they would be a second model.
    mixing = (
        torch.autocast(model.device.type, dtype, cache_enabled=False) if mixed else nullcontext()
    )
    try:
        with _as_in_training(model), mixing:
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except RuntimeError as error:
        if not mixed or isinstance(error, torch.OutOfMemoryError):
            raise
        # Some classes hold constants or call functions that are there in float32 alone.
        name = str(dtype).removeprefix("torch.")
        key = {"bfloat16": "bf16", "float16": "fp16"}[name]
        raise UserError(
            f"{type(model).__name__} does not compute in {name} on the {model.device.type} "
            f"({first_line(error)}): set training.hardware.{key}=false"
        ) from None


@contextmanager
def _as_in_training(model: Any) -> Iterator[None]:
    """Training mode, which takes other paths than evaluation; no random number is drawn."""
    import torch

    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(was_training)


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
