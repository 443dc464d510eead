"""An adapted layer as one function computes what peft's five operations compute."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from steps.config.sections import Qlora, Quantization
from steps.errors import UserError
from steps.models.adapters import add_adapter
from steps.models.devices import Placement
from steps.models.fused import (
    FusedCounts,
    draw_mask,
    fuse_adapters,
    share_left_out,
    use_fused_adapters,
    why_not_fused,
)
from steps.models.loading import load_model
from steps.models.sources import Base
from tests.support.architectures import ARCHITECTURES, VOCABULARY, Architecture

LLAMA = next(one for one in ARCHITECTURES if one.model_type == "llama")
LAYERS_OF_LLAMA = 2 * 7


def adapted(architecture: Architecture, method: str = "lora", **settings: Any) -> Any:
    """A tiny model in float32 with an adapter that is away from its beginning."""
    settings = {"r": 4, "lora_dropout": 0.0, **settings}
    qlora = Qlora(method=method, **settings)  # type: ignore[arg-type]
    return shaken(add_adapter(architecture.build(), qlora, architecture.objective))


def shaken(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                # B begins at 0, where A has no gradient.
                weight.add_(0.05 * torch.randn_like(weight))
    return model


class DrawnAlike(nn.Module):
    """Dropout for peft's code, with the numbers that the fused function draws."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * draw_mask(x, self.p) / (1 - share_left_out(self.p))


def draw_alike(model: Any) -> Any:
    """A model whose layers, left to peft's code, draw as fused ones do."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, layer in module.lora_dropout.items():
                if isinstance(layer, nn.Dropout) and not why_not_fused(module):
                    module.lora_dropout[name] = DrawnAlike(layer.p)
    return model


def batch_for(model: Any) -> dict[str, Tensor]:
    tokens = torch.randint(5, VOCABULARY, (2, 64), generator=torch.Generator().manual_seed(2))
    return {"input_ids": tokens, "labels": tokens}


def loss_and_gradients(model: Any, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(3)
    loss = model(**batch).loss
    loss.backward()
    named = model.named_parameters()
    return float(loss), {n: w.grad.clone() for n, w in named if w.grad is not None}


def assert_same_gradients(fused: Any, plain: Any, tolerance: float = 1e-5) -> None:
    """Equal by `tolerance` of the largest gradient: some tensors' own is zero but for rounding."""
    loss, gradients = loss_and_gradients(fused, batch_for(fused))
    expected_loss, expected = loss_and_gradients(plain, batch_for(plain))
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert gradients.keys() == expected.keys() and len(expected) > 1
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= tolerance * largest, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_gradients_are_those_of_pefts_own_code_for_every_listed_class(
    architecture: Architecture,
    dropout: float,
) -> None:
    try:
        plain = adapted(architecture, lora_dropout=dropout)
    except UserError:
        # Refused by name, see test_architectures.
        return
    fused = copy.deepcopy(plain)
    counts = use_fused_adapters(fused)
    assert counts.layers + sum(counts.left.values()) > 0
    # Both begin with the same seed.
    draw_alike(plain).train(), fused.train()
    # Dropout is scaled up elsewhere than in peft, which MobileBERT amplifies to 1.1e-5.
    assert_same_gradients(fused, plain, tolerance=2e-5 if dropout else 1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        lambda model: model.get_base_model().activation_checkpointing_enable(
            {"use_reentrant": False}
        ),
    ],
    ids=["kept", "checkpointed"],
)
@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_a_llama_is_fused_whole(method: str, change: Callable[[Any], None]) -> None:
    plain = adapted(LLAMA, method)
    fused = copy.deepcopy(plain)
    assert use_fused_adapters(fused) == FusedCounts(layers=LAYERS_OF_LLAMA, mlps=2)
    plain.train(), fused.train()
    change(fused)
    assert_same_gradients(fused, plain)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_on_4_bit_weights_have_the_gradients_of_pefts_own_code(
    dropout: float, tmp_path: Path
) -> None:
    LLAMA.build(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    base = Base("tiny", "folder", None, "", "causal", "", tmp_path)
    qlora = Qlora(method="qlora", r=4, lora_dropout=dropout)
    models = []
    for _ in range(2):
        model = load_model(base, Quantization(), 4, torch.float32, "cpu")
        torch.manual_seed(0)
        models.append(shaken(add_adapter(model, qlora, "causal")))
    plain, fused = models
    assert use_fused_adapters(fused) == FusedCounts(layers=LAYERS_OF_LLAMA, mlps=2)
    draw_alike(plain).train(), fused.train()
    assert_same_gradients(fused, plain)


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [("dora", {}, "Dora"), ("dora", {"lora_dropout": 0.1}, "Dora")],
)
def test_what_is_not_covered_runs_pefts_code_and_is_named(
    method: str, settings: dict[str, Any], reason: str
) -> None:
    plain = adapted(LLAMA, method, **settings)
    fused = copy.deepcopy(plain)
    counts = use_fused_adapters(fused)
    assert counts == FusedCounts(0, 0, {reason: LAYERS_OF_LLAMA})
    (note,) = counts.notes
    assert reason in note and f"{LAYERS_OF_LLAMA} of {LAYERS_OF_LLAMA}" in note
    plain.train(), fused.train()
    assert_same_gradients(fused, plain, tolerance=0.0)


@pytest.mark.parametrize("dropout", [0.05, 0.5, 0.9])
def test_dropout_leaves_its_share_of_every_position_and_draws_anew(dropout: float) -> None:
    torch.manual_seed(0)
    # 3 and 5 do not fill the numbers of four elements each.
    masks = torch.stack([draw_mask(torch.empty(3, 5), dropout) for _ in range(20_000)]).float()
    expected = 1 - share_left_out(dropout)
    assert expected == pytest.approx(1 - dropout, abs=1e-5)
    deviation = (expected * (1 - expected) / len(masks)) ** 0.5
    assert (masks.mean(0) - expected).abs().max() < 5 * deviation
    # No two of its elements go together, be they of one random number or of neighbouring draws.
    flat = masks.flatten() - expected
    for distance in range(1, 20):
        together = (flat[:-distance] * flat[distance:]).mean()
        assert abs(together) < 5 * expected * (1 - expected) / len(flat) ** 0.5


def test_there_is_no_dropout_outside_the_training() -> None:
    plain = adapted(LLAMA, lora_dropout=0.3)
    fused = copy.deepcopy(plain)
    use_fused_adapters(fused)
    plain.eval(), fused.eval()
    loss, _ = loss_and_gradients(fused, batch_for(fused))
    fused.train()
    thinned, _ = loss_and_gradients(fused, batch_for(fused))
    expected, _ = loss_and_gradients(plain, batch_for(plain))
    assert loss == pytest.approx(expected, rel=1e-5) and thinned != pytest.approx(loss, rel=1e-5)


def test_under_zero_3_nothing_is_fused() -> None:
    model = adapted(LLAMA)
    assert fuse_adapters(model, Placement("cpu", "float32", 2, 3)) == FusedCounts()
    assert not any("forward" in vars(module) for module in model.modules())


def test_without_gradients_scores_are_those_of_pefts_code_to_the_last_bit() -> None:
    plain = adapted(LLAMA)
    fused = copy.deepcopy(plain)
    use_fused_adapters(fused)
    with torch.no_grad():
        assert torch.equal(fused(**batch_for(fused)).logits, plain(**batch_for(plain)).logits)


def test_a_switched_off_or_merged_adapter_stays_switched_off_or_merged() -> None:
    plain = adapted(LLAMA)
    fused = copy.deepcopy(plain)
    use_fused_adapters(fused)
    batch = batch_for(fused)
    with fused.disable_adapter(), plain.disable_adapter():
        assert torch.equal(fused(**batch).logits, plain(**batch).logits)
    fused.merge_adapter(), plain.merge_adapter()
    assert torch.equal(fused(**batch).logits, plain(**batch).logits)


def test_what_is_saved_is_pefts() -> None:
    plain = adapted(LLAMA)
    fused = copy.deepcopy(plain)
    use_fused_adapters(fused)
    state, expected = fused.state_dict(), plain.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], weight) for name, weight in expected.items())


def test_a_copy_of_a_fused_model_computes_with_its_own_weights() -> None:
    fused = adapted(LLAMA)
    counts = use_fused_adapters(fused)
    other = copy.deepcopy(fused)
    plain = adapted(LLAMA)
    for model in (other, plain):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.5)
    with torch.no_grad():
        assert torch.equal(other(**batch_for(other)).logits, plain(**batch_for(plain)).logits)
    assert_same_gradients(other, plain)
    assert use_fused_adapters(other) == counts


def test_a_layer_whose_forward_pass_somebody_has_changed_is_left_alone() -> None:
    model = adapted(LLAMA)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    layer.forward = lambda x: x.new_zeros(*x.shape[:-1], layer.out_features)
    counts = use_fused_adapters(model)
    assert (counts.layers, counts.mlps) == (LAYERS_OF_LLAMA - 1, 1)
    assert sum(counts.left.values()) == 1


def kept_bytes(model: Any) -> int:
    """Bytes that the graph of the layers under bfloat16 keeps, beside the weights."""
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        tokens = batch_for(model)["input_ids"]
        hidden = model.get_base_model().base_model(input_ids=tokens, use_cache=False)[0]
    assert hidden.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_fused_model_keeps_less_for_the_backward_pass(dropout: float) -> None:
    plain = adapted(LLAMA, lora_dropout=dropout).to(torch.bfloat16)
    for name, weight in plain.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    fused = copy.deepcopy(plain)
    use_fused_adapters(fused)
    assert kept_bytes(fused) < 0.7 * kept_bytes(plain)


class OtherOrder(nn.Module):
    """The names of LLaMA's MLP, and another function."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 16), nn.Linear(8, 16)
        self.down_proj, self.act_fn = nn.Linear(16, 8), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.silu(self.up_proj(x))
        return torch.as_tensor(self.down_proj(activated * self.gate_proj(x)))


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU()], ids=["other-order", "gelu"])
def test_an_mlp_that_computes_something_else_is_not_taken_for_llamas(activation: nn.Module) -> None:
    from peft import LoraConfig, get_peft_model

    mlp = OtherOrder()
    mlp.act_fn = activation
    names = ["gate_proj", "up_proj", "down_proj"]
    plain = shaken(get_peft_model(mlp, LoraConfig(r=2, target_modules=names)))  # type: ignore[arg-type]
    fused = copy.deepcopy(plain)
    assert use_fused_adapters(fused) == FusedCounts(layers=3, mlps=0)
    x = torch.randn(5, 8)
    assert torch.allclose(fused(x), plain(x), atol=1e-6)
