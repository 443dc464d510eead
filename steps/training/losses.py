"""Cross-entropy over a large vocabulary without ever holding all logits.

The logits of 4,096 positions over 32,000 words take 0.5 GB in float32, and as much again
for their gradient. Here they exist for `CHUNK` positions at a time, in buffers that all
chunks share, and the gradient of the hidden states (and of the head, where it is trained)
is computed right away in the forward pass, so that nothing is computed twice. Same idea as
Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989).

Liger's own kernel is not used on CUDA either: it does what is done here, and what it saves
are passes over the chunk's logits. For LLaMA-2 7B those are 6 passes over 512 x 32,000
numbers in 64 chunks at 32k tokens, some 50 GB of memory traffic, 0.03 s on a GPU of
2 TB/s, in a step that takes tens of seconds; it would bring Triton in, and a second loss to
plan and to check.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100
CHUNK = 512


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        autocasts = torch.is_autocast_enabled(device)
        product = torch.get_autocast_dtype(device) if autocasts else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _loss_and_gradients(ctx, hidden.detach(), weight.detach(), targets, product)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (scale,) = outputs
        # Autograd frees saved tensors after this; attributes of `ctx` would stay until the
        # whole backward pass is over.
        hidden, weight = ctx.saved_tensors
        return (
            None if hidden is None else hidden * scale.to(hidden.dtype),
            None if weight is None else (weight * scale).to(ctx.weight_dtype),
            None,
        )


def _loss_and_gradients(
    ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype
) -> Tensor:
    """The forward pass; `product` is the number format of the matrix products."""
    exact = torch.promote_types(product, torch.float32)
    total = torch.zeros((), dtype=exact, device=hidden.device)
    hidden_gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
    weight_gradient = (
        torch.zeros(weight.shape, dtype=exact, device=weight.device)
        if ctx.needs_input_grad[1]
        else None
    )
    head = weight.to(product)
    scored = (targets != IGNORED).nonzero().squeeze(1)
    buffer = hidden.new_empty(min(CHUNK, len(scored)), weight.shape[0], dtype=product)
    exact_buffer = buffer if product == exact else torch.empty_like(buffer, dtype=exact)
    for start in range(0, len(scored), CHUNK):
        where = scored[start : start + CHUNK]
        wanted = targets[where, None]
        rows = hidden[where].to(product)
        rounded, logits = buffer[: len(where)], exact_buffer[: len(where)]
        torch.mm(rows, head.T, out=rounded)
        logits.copy_(rounded)
        logits.sub_(logits.amax(dim=-1, keepdim=True))
        right = logits.gather(1, wanted)
        # In place: `logsumexp` would take a tensor as large as the logits for itself.
        normaliser = logits.exp_().sum(dim=-1, keepdim=True)
        total += (normaliser.log() - right).sum()
        if hidden_gradient is None and weight_gradient is None:
            continue
        # d loss / d logits = softmax - one_hot, in place of the logits.
        gradient = logits.div_(normaliser)
        gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
        rounded.copy_(gradient)
        if hidden_gradient is not None:
            hidden_gradient[where] = (rounded @ head).to(hidden.dtype)
        if weight_gradient is not None:
            weight_gradient += rounded.T @ rows
    ctx.save_for_backward(hidden_gradient, weight_gradient)
    ctx.weight_dtype = weight.dtype
    return total


def linear_cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of `hidden @ weight.T` against `targets`, in nats.

    Args:
        hidden: `[positions, width]`; the products are computed in its number format, or in
            autocast's.
        weight: `[vocabulary, width]`; its gradient is computed only if it is trained.
        targets: `[positions]` int64; positions with `IGNORED` cost nothing.

    Returns:
        A float32 scalar (float64 for float64); 0 with a gradient of 0 if every position is
        ignored.
    """
    loss = _ChunkedLinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    assert isinstance(loss, Tensor)
    return loss


def use_chunked_loss(model: Any) -> None:
    """Let a causal model compute its loss in chunks when it is given labels.

    The model's `forward` then returns only the loss, normalised by `num_items_in_batch`
    (target tokens of the whole accumulated batch, over all ranks), which makes the loss
    independent of how a batch is cut into micro-batches. Without labels it works as ever.
    Bound to the instance below any wrapper, so that peft, DDP and DeepSpeed see no change.

    Args:
        model: A `PreTrainedModel` with a decoder and an output head without bias.
    """
    plain_forward = model.forward

    def forward(self: nn.Module, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        count = kwargs.pop("num_items_in_batch", None)
        if labels is None:
            return plain_forward(*args, **kwargs)
        kwargs.pop("return_dict", None)
        outputs = model.get_decoder()(*args, **kwargs)
        # The targets are shifted, not the hidden states: a slice of those costs a copy of them
        # in the backward pass.
        hidden = outputs.last_hidden_state.flatten(0, 1)
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        total = linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, targets)
        if count is None:
            count = (targets != IGNORED).sum()
        return CausalLMOutputWithPast(loss=total / count)

    model.forward = types.MethodType(forward, model)


def has_plain_head(model: Any) -> bool:
    """Whether the model's logits are `hidden @ weight.T`, with nothing before or after."""
    head = model.get_output_embeddings()
    settings = model.config
    return (
        type(head) is nn.Linear
        and head.bias is None
        and not getattr(settings, "final_logit_softcapping", None)
        and getattr(settings, "logits_scaling", 1.0) in (None, 1.0)
        and getattr(settings, "logit_scale", 1.0) in (None, 1.0)
        and not isinstance(model.get_decoder(), type(model))
    )
