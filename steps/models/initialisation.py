"""How an adapter begins (`qlora.initialization`): as nothing, or by what weights or data say.

PiSSA and OLoRA begin an adapter as a part P = s B0 A0 of a weight W, take P out of the frozen
weight, and train (W - P) + s B A. Here nothing is taken out. An adapter of twice the rank holds
both halves, A = [A1; A0] and B = [B1, -B0], the second one frozen: W + s (B1 A1 - B0 A0) is the
same function, and the adapter that peft's conversion would make of it after the training. So the
base is the one that everybody has, no residual is rounded to bfloat16, and a checkpoint, resumed
on any machine, holds what it began with.

LoftQ takes the best low-rank fit of what 4 bits have lost, W - Q(W), in one step: the quantised
weights stay those that loading makes. EVA changes A alone.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steps.config.sections import Qlora
from steps.errors import UserError

ADAPTER = "default"
# Of the randomised decomposition: powers of the matrix, and columns beyond the rank (Halko et al.
# 2011, arXiv:0909.4061).
POWERS, SPARE = 16, 16
# Windows of training text that EVA looks at, and their longest.
EVA_WINDOWS, EVA_TOKENS = 16, 256
# How often it looks at them, and directions that it follows, by the rank.
EVA_PASSES, EVA_TIMES = 3, 4


def initialisation_note(settings: Qlora) -> str:
    """What the reader of a run has to know about how its adapter began; "" if nothing."""
    if not settings.halves_begin_alike:
        return ""
    return (
        f"qlora.initialization {settings.initialization}: the adapter has rank "
        f"{settings.adapter_rank}, twice qlora.r; one half stays as it began, and the base is "
        "untouched"
    )


def begin_adapter(model: Any, settings: Qlora, windows: Sequence[Tensor] | None = None) -> None:
    """Give the adapter of a model its first values.

    Args:
        model: A `PeftModel` whose adapter is as peft draws it; on the meta device it is checked
            and nothing more.
        settings: The section `qlora`.
        windows: Token ids `[1, tokens]` of training text, which EVA needs; from `first_windows`.

    Raises:
        UserError: A layer is narrower than the rank, or none that can begin so; EVA has no text,
            LoftQ no unquantised weights.
    """
    if settings.initialization == "default":
        return
    layers = list(_adapted_layers(model, settings))
    if model.device.type == "meta":
        return
    if settings.initialization == "eva":
        _begin_by_inputs(model, layers, windows, settings.r)
        return
    original = None
    if settings.initialization == "loftq":
        original = _StoredWeights.of(model.get_base_model())
    with torch.no_grad(), torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(0)
        for name, layer in layers:
            if original is None:
                _begin_as_part(layer, settings)
            elif type(layer.get_base_layer()).__name__ == "Linear4bit":
                _begin_as_loss_of_bits(layer, original.weight(name))
    if settings.halves_begin_alike:
        for _, layer in layers:
            _freeze_second_half(layer.lora_A[ADAPTER].weight, 0)
            _freeze_second_half(layer.lora_B[ADAPTER].weight, 1)


def _devices(model: Any) -> list[Any]:
    return [model.device] if model.device.type == "cuda" else []


def _adapted_layers(model: Any, settings: Qlora) -> Iterator[tuple[str, Any]]:
    """Adapted layers by their name in the base.

    Raises:
        UserError: One cannot begin as it should.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    begins = f"qlora.initialization {settings.initialization}"
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if isinstance(layer, ParamWrapper) or ADAPTER not in layer.lora_A:
            raise UserError(
                f"{begins} is for linear layers, and {name} is none: set it to default, or name "
                "linear layers alone in qlora.target_modules"
            )
        narrowest = min(layer.in_features, layer.out_features)
        if settings.r > narrowest:
            raise UserError(
                f"{begins} takes a part of rank {settings.r} (qlora.r) of each layer, and {name} "
                f"has no more than {narrowest}: set training.qlora.r={narrowest} or less"
            )
        yield name, layer


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the part of a matrix with the largest singular values, equal in size.

    Args:
        matrix: `[rows, columns]`, float32.
        rank: Of the part.

    Returns:
        `[rows, rank]` and `[rank, columns]`, each with the roots of the singular values.
    """
    columns = min(rank + SPARE, *matrix.shape)
    left, values, right = torch.svd_lowrank(matrix, q=columns, niter=POWERS)
    roots = values[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:, :rank].T


def _begin_as_part(layer: Any, settings: Qlora) -> None:
    """Two halves that cancel: a part of the weight, and the same with the other sign."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    weight = layer.get_base_layer().weight.float()
    if layer.fan_in_fan_out:
        weight = weight.T
    if settings.initialization == "pissa":
        of_b, of_a = low_rank(weight, settings.r)
        root = layer.scaling[ADAPTER] ** 0.5
        of_b, of_a = of_b / root, of_a / root
    else:
        orthogonal, triangular = torch.linalg.qr(weight)
        of_b, of_a = orthogonal[:, : settings.r], triangular[: settings.r]
    a.copy_(torch.cat([of_a, of_a]))
    b.copy_(torch.cat([of_b, -of_b], dim=1))


def _freeze_second_half(weight: Tensor, dimension: int) -> None:
    """Let no gradient into the second half of a trained weight."""
    half = weight.shape[dimension] // 2

    def of_first_half(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept.narrow(dimension, half, half).zero_()
        return kept

    weight.register_hook(of_first_half)  # type: ignore[no-untyped-call]


def _begin_as_loss_of_bits(layer: Any, weight: Tensor) -> None:
    """What quantisation has lost, as far as the rank reaches; peft's forgets the factor s."""
    from bitsandbytes.functional import dequantize_4bit

    packed = layer.get_base_layer().weight
    kept = dequantize_4bit(packed.data, packed.quant_state).float()
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    of_b, of_a = low_rank(weight.to(kept.device).float() - kept, a.shape[0])
    root = layer.scaling[ADAPTER] ** 0.5
    a.copy_(of_a / root)
    b.copy_(of_b / root)


@dataclass(frozen=True)
class _StoredWeights:
    """The unquantised weights of a model, as its files hold them.

    Attributes:
        files: The file of each tensor, by its name there.
        prefix: What files of a bare encoder or decoder leave out of the names.
        name: Of the model's folder, for messages.
    """

    files: dict[str, Path]
    prefix: str
    name: str

    @classmethod
    def of(cls, model: Any) -> "_StoredWeights":
        from safetensors import safe_open

        folder = Path(model.name_or_path)
        files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as content:
                files |= dict.fromkeys(content.keys(), file)
        return cls(files, f"{model.base_model_prefix}.", folder.name)

    def weight(self, layer: str) -> Tensor:
        """The weight of a layer, by the layer's name.

        Raises:
            UserError: The files have no such weight, or a quantised one.
        """
        from safetensors import safe_open

        stated = f"{layer}.weight"
        for name in (stated, stated.removeprefix(self.prefix)):
            if name in self.files:
                with safe_open(self.files[name], framework="pt") as content:
                    weight: Tensor = content.get_tensor(name)
                if weight.is_floating_point() and weight.ndim == 2:
                    return weight
        raise UserError(
            f"qlora.initialization loftq needs the unquantised {stated}, which the files of "
            f"{self.name} do not hold under that name: set training.qlora.initialization=default"
        )


def first_windows(
    settings: Qlora, tokenizer: Any, texts: Iterable[str], length: int
) -> list[Tensor] | None:
    """The openings of the first texts, for `add_adapter`; None where the adapter needs no text.

    Args:
        settings: The section `qlora`.
        tokenizer: The base's.
        texts: Of the training papers.
        length: Most tokens of a window.

    Returns:
        Token ids `[1, tokens]`, of each text that has at least as many as the rank.

    Raises:
        UserError: None of the first texts has so many.
    """
    if settings.initialization != "eva":
        return None
    most, least = min(length, EVA_TOKENS), settings.r
    windows = []
    for text in itertools.islice(texts, 4 * EVA_WINDOWS):
        ids = tokenizer(text, truncation=True, max_length=most, return_tensors="pt").input_ids
        if ids.shape[1] >= least:
            windows.append(ids)
    if not windows:
        raise UserError(
            f"qlora.initialization eva needs windows of at least {least} tokens (qlora.r), "
            "and neither model.max_length nor the first training papers have so many: lower "
            "training.qlora.r, or set training.qlora.initialization=default"
        )
    return windows[:EVA_WINDOWS]


def _begin_by_inputs(
    model: Any, layers: list[tuple[str, Any]], windows: Sequence[Tensor] | None, rank: int
) -> None:
    """Let each A look where its layer's inputs vary most (Paischer et al. 2024, arXiv:2410.07170).

    Subspace iteration on the covariance of the inputs, which takes as many passes over the windows
    as it is told: peft's goes on until nothing moves, which took minutes on SmolLM2-135M. And every
    layer keeps its rank: shared out anew, neither the memory plan nor a resumed run could know
    ranks before the data.
    """
    if not windows:
        raise UserError(
            "qlora.initialization eva looks at training text, and add_adapter was given none: pass "
            "windows (steps.models.initialisation.first_windows), or set it to default"
        )
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(0)
        directions = {}
        for name, layer in layers:
            shape = layer.in_features, min(EVA_TIMES * rank, layer.in_features)
            directions[name] = torch.linalg.qr(torch.randn(shape, device=model.device))[0]
        for _ in range(EVA_PASSES):
            # Orthogonal again after each product with the covariance.
            seen = _covariance_along(directions, model, layers, windows)
            bases = {name: torch.linalg.qr(product)[0] for name, product in seen.items()}
            last, directions = directions, bases
        for name, layer in layers:
            # Of what the directions before the last product have shown, the strongest.
            small = last[name].T @ seen[name]
            _, turns = torch.linalg.eigh((small + small.T) / 2)
            layer.lora_A[ADAPTER].weight.copy_((last[name] @ turns[:, -rank:].flip(1)).T)
    model.train(was_training)


def _covariance_along(
    directions: dict[str, Tensor],
    model: Any,
    layers: list[tuple[str, Any]],
    windows: Sequence[Tensor],
) -> dict[str, Tensor]:
    """The covariance of each layer's inputs, times its directions `[in_features, columns]`."""
    products = {name: torch.zeros_like(one) for name, one in directions.items()}
    sums = {name: torch.zeros_like(one[:, 0]) for name, one in directions.items()}
    tokens = sum(window.numel() for window in windows)

    def look(name: str, given: tuple[Any, ...]) -> None:
        inputs = given[0].detach().reshape(-1, given[0].shape[-1]).float()
        products[name] += inputs.T @ (inputs @ directions[name])
        sums[name] += inputs.sum(0)

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: look(name, given))
        for name, layer in layers
    ]
    dtype = model.get_base_model().dtype
    try:
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            for window in windows:
                model(input_ids=window.to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: product - torch.outer(sums[name], sums[name] @ directions[name]) / tokens
        for name, product in products.items()
    }
