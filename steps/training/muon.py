"""Muon for matrices, AdamW for the rest, as one optimiser with one state."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer

# Jordan 2024 (kellerjordan.github.io/posts/muon): momentum, and the odd polynomial whose iteration
# makes a matrix orthogonal.
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Steps as long as AdamW's (Liu et al. 2025, arXiv:2502.16982), so that its learning rates hold.
LENGTH = "match_rms_adamw"


class MuonWithAdamW(Optimizer):
    """Steps of matrices are made orthogonal; vectors, embeddings and heads take AdamW.

    `torch.optim.Muon` takes matrices alone, and Trainer, Accelerate and schedules one optimiser.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Take groups of parameters, each with `muon`: whether it is Muon's.

        Args:
            params: The groups.
            lr: Learning rate of groups that state none.
            betas: Of AdamW.
            eps: Of AdamW.
            weight_decay: Of groups that state none.
        """
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both, in the order of the groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            if group["muon"]:
                self._muon(weights, group)
            else:
                self._adamw(weights, group)
        return loss

    def _muon(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        from torch.optim._muon import EPS, muon

        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        muon(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [self.state[weight]["momentum_buffer"] for weight in weights],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=MOMENTUM,
            nesterov=True,
            ns_coefficients=COEFFICIENTS,
            ns_steps=ITERATIONS,
            eps=EPS,
            adjust_lr_fn=LENGTH,
            has_complex=False,
        )

    def _adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight].update(
                    step=torch.zeros((), dtype=torch.float32),
                    exp_avg=torch.zeros_like(weight),
                    exp_avg_sq=torch.zeros_like(weight),
                )
        states = [self.state[weight] for weight in weights]
        adamw(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
