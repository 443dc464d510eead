"""Cross-entropy over a large vocabulary without ever holding all logits.

The logits of 4,096 positions over 32,000 words take 0.5 GB in float32, and as much again
for their gradient. Here they exist for `CHUNK` positions at a time, and the gradient of
the hidden states (and of the head, where it is trained) is computed right away in the
forward pass, so that nothing is computed twice. Same idea as Liger's fused linear
cross-entropy (Hsu et al. 2024, arXiv:2410.10989); Liger itself needs Triton, so it does
not run on the CPU, and computes the head's gradient also where the head is frozen.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steps.models.heads import LogitHead, find_logit_head, scale_and_cap

IGNORED = -100
# Papers, replay and study texts, whose losses are told apart (see `steps.training.mixing`).
SOURCES = 3
CHUNK = 512
# Of a chunk, so many positions at a time become float32 and probabilities: on a CPU they stay in
# its cache meanwhile.
SLICE = 32


def starts_of_blocks(length: int, size: int) -> range:
    """Where blocks of `size` begin; the last one may be shorter."""
    return range(0, length, size)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        soft_cap: float | None,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        weight_gradient, bias_gradient = (
            torch.zeros(trained.shape, dtype=torch.float32, device=trained.device)
            if trained is not None and trained.requires_grad
            else None
            for trained in (weight, bias)
        )
        head = weight.to(hidden.dtype)
        trains = any(x is not None for x in (hidden_gradient, weight_gradient, bias_gradient))
        for start in starts_of_blocks(hidden.shape[0], CHUNK):
            rows = hidden[start : start + CHUNK].detach()
            logits = rows @ head.detach().T
            for first in starts_of_blocks(len(rows), SLICE):
                part = logits[first : first + SLICE]
                wanted = targets[start + first : start + first + len(part), None]
                exact = part.float() if bias is None else part.float() + bias.detach()
                exact = scale_and_cap(exact, scale, soft_cap)
                slope = _slope(exact, scale, soft_cap) if trains else 1.0
                log_probabilities = torch.log_softmax(exact, dim=-1)
                total -= log_probabilities.gather(1, wanted).sum()
                if not trains:
                    continue
                # d loss / d logits = softmax - one_hot, in place of the logits.
                gradient = log_probabilities.exp_()
                gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
                if soft_cap is not None or scale != 1.0:
                    gradient *= slope
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0)
                part.copy_(gradient)
            if hidden_gradient is not None:
                hidden_gradient[start : start + CHUNK] = logits @ head.detach()
            if weight_gradient is not None:
                weight_gradient += (logits.T @ rows).float()
        # Autograd frees saved tensors in the backward pass; attributes of `ctx` would stay until
        # the whole backward pass is over.
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = outputs
        hidden, weight, bias = (
            None if gradient is None else (gradient * scale.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return hidden, weight, bias, None, None, None


def _slope(logits: Tensor, scale: float, soft_cap: float | None) -> Tensor | float:
    """The derivative of a model's logits by those of its linear layer.

    cap(x) = c tanh(x / c) has the derivative 1 - (cap(x) / c)^2; Gemma Team 2024, arXiv:2408.00118.
    """
    if soft_cap is None:
        return scale
    return (logits / soft_cap).square_().neg_().add_(1.0).mul_(scale)


def linear_cross_entropy_sum(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Tensor:
    """Sum of the cross-entropies of a head's logits against `targets`, in nats.

    The logits are `scale * (hidden @ weight.T + bias)`, capped as in `LogitHead`.

    Args:
        hidden: `[positions, width]`, in the number format that the head computes in.
        weight: `[vocabulary, width]`; its gradient is computed only if it is trained.
        targets: `[positions]` int64; positions with `IGNORED` cost nothing.
        bias: `[vocabulary]`, or None.
        scale: Factor on the logits.
        soft_cap: Limit that they approach, or None.

    Returns:
        A float32 scalar; 0 with a gradient of 0 if every position is ignored.
    """
    scored = targets != IGNORED
    loss = _ChunkedLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden[scored], weight, bias, targets[scored], scale, soft_cap
    )
    assert isinstance(loss, Tensor)
    return loss


def sums_by_source(
    total_of: Callable[[Tensor], Tensor], targets: Tensor, sources: Tensor | None
) -> Tensor:
    """Summed losses of the targets of each source.

    Args:
        total_of: The summed loss of targets, `[positions]`, those with `IGNORED` left out.
        targets: `[positions]` int64.
        sources: Of each position, int64 `[positions]` from 0 to `SOURCES` - 1; None: all of one.

    Returns:
        `[SOURCES]`, or `[1]` without sources.
    """
    if sources is None:
        return total_of(targets)[None]
    sums = [torch.zeros((), device=targets.device)] * SOURCES
    for source in torch.unique(sources).tolist():
        sums[source] = total_of(targets.masked_fill(sources != source, IGNORED))
    return torch.stack(sums)


def answer_with_loss(model: Any, compute: Callable[..., Any]) -> None:
    """Let a model's `forward` compute its loss by `compute` when it is given labels.

    Without labels it works as ever. Bound to the instance below any wrapper, so that peft, DDP
    and DeepSpeed see no change.

    Args:
        model: A `PreTrainedModel`, not wrapped by peft.
        compute: Called with the model's own forward, the labels, the targets of the whole
            accumulated batch over all ranks (None where the caller gives no
            `num_items_in_batch`), the source of each token (None where the caller gives no
            `sources`), and the other arguments; gives the model's output with a loss divided by
            those targets, so that it does not depend on how a batch is cut into micro-batches,
            and with `nats`, the sums of `sums_by_source`.
    """
    plain_forward = model.forward

    def forward(self: nn.Module, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        count, sources = (kwargs.pop(name, None) for name in ("num_items_in_batch", "sources"))
        if labels is None:
            return plain_forward(*args, **kwargs)
        kwargs.pop("return_dict", None)
        return compute(plain_forward, labels, count, sources, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def use_chunked_loss(model: Any) -> bool:
    """Let a causal model compute its loss when it is given labels, in chunks where it can.

    Args:
        model: A causal `PreTrainedModel`, not wrapped by peft.

    Returns:
        False where the head is none that `find_logit_head` can take apart: then all logits are
        made at once, and the loss is the same.
    """
    head = find_logit_head(model)
    use_loss_of_head(model, head)
    return head is not None


def use_loss_of_head(model: Any, head: LogitHead | None) -> None:
    """Let a causal model compute its loss when it is given labels.

    The model's `forward` then returns only the loss.

    Args:
        model: A causal `PreTrainedModel`, not wrapped by peft.
        head: Its head, taken apart; None: all logits are made at once.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    def compute(
        plain: Any, labels: Tensor, count: Any, sources: Tensor | None, *args: Any, **kwargs: Any
    ) -> Any:
        targets = labels[:, 1:].flatten()
        of_targets = None if sources is None else sources[:, 1:].flatten()
        total_of: Callable[[Tensor], Tensor]
        if head is None:
            logits = plain(*args, **kwargs).logits[:, :-1].flatten(0, 1)
            total_of = partial(
                nn.functional.cross_entropy, logits.float(), ignore_index=IGNORED, reduction="sum"
            )
        else:
            hidden = head.hidden_states(plain, *args, **kwargs)[:, :-1].flatten(0, 1)
            total_of = partial(
                linear_cross_entropy_sum,
                hidden,
                head.weight,
                bias=head.bias,
                scale=head.scale,
                soft_cap=head.soft_cap,
            )
        nats = sums_by_source(total_of, targets, of_targets)
        if count is None:
            count = (targets != IGNORED).sum()
        output = CausalLMOutputWithPast(loss=nats.sum() / count)
        output["nats"] = nats.detach()
        return output

    answer_with_loss(model, compute)


def use_masked_loss(model: Any) -> None:
    """Let a masked model compute its loss when it is given labels.

    The head sees only the positions that are to be restored: of a row of 512 tokens by a
    vocabulary of 30,000, six in seven logits would be made for nothing.

    Args:
        model: A masked `PreTrainedModel`, not wrapped by peft.
    """
    from transformers.modeling_outputs import MaskedLMOutput

    def compute(
        plain: Any, labels: Tensor, count: Any, sources: Tensor | None, *args: Any, **kwargs: Any
    ) -> Any:
        wanted = (labels != IGNORED).flatten()
        with head_sees_only(model, wanted):
            logits = plain(*args, **kwargs).logits[0]
        total_of = partial(
            nn.functional.cross_entropy, logits.float(), ignore_index=IGNORED, reduction="sum"
        )
        of_targets = None if sources is None else sources.flatten()[wanted]
        nats = sums_by_source(total_of, labels.flatten()[wanted], of_targets)
        count = wanted.sum() if count is None else torch.as_tensor(count)
        # A batch in which nothing could be hidden has a loss of 0, not of 0 / 0.
        output = MaskedLMOutput(loss=nats.sum() / count.clamp(min=1))
        output["nats"] = nats.detach()
        return output

    answer_with_loss(model, compute)


@contextmanager
def head_sees_only(model: Any, wanted: Tensor) -> Iterator[None]:
    """Pick positions out of the encoder's output on its way to the head.

    Heads differ (transform, bias, tied or not); all of them take whatever positions they get.

    Args:
        model: A masked `PreTrainedModel`, not wrapped by peft.
        wanted: Which positions, bool `[rows * tokens]`; the logits are `[1, wanted, vocabulary]`.
    """

    def pick(module: Any, arguments: Any, output: Any) -> Any:
        output["last_hidden_state"] = output[0].flatten(0, 1)[wanted][None]
        return output

    hook = model.base_model.register_forward_hook(pick)
    try:
        yield
    finally:
        hook.remove()
