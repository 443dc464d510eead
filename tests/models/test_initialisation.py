"""How adapters begin: the published beginnings, on a base that nothing is taken out of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.adapters import add_adapter, check_adapter
from steps.models.initialisation import first_windows, low_rank
from steps.models.loading import load_model, skeleton
from steps.models.quantised import check_stored
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from tests.support.model_folders import quantised
from tests.support.project import demo_texts

RANK = 4


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


def settings(initialization: str, **changes: Any) -> Qlora:
    method = "qlora" if initialization == "loftq" else "lora"
    return Qlora(
        **{
            "method": method,
            "r": RANK,
            "lora_alpha": 12,
            "lora_dropout": 0.0,
            "quantization": Quantization(load_in_4bit=method == "qlora"),
            "initialization": initialization,
            **changes,
        }
    )


def loaded(folder: Path, bits: int = 16) -> Any:
    base = resolve_base(Model(name=str(folder)))
    return load_model(base, Quantization(), bits, torch.float32, "cpu")


def windows_of(folder: Path, qlora: Qlora) -> list[torch.Tensor] | None:
    return first_windows(qlora, load_tokenizer(folder), demo_texts(), 64)


def adapted(folder: Path, qlora: Qlora) -> Any:
    objective = "masked" if "bert" in folder.name else "causal"
    return add_adapter(loaded(folder, qlora.bits), qlora, objective, windows_of(folder, qlora))


def layers_of(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    inner = model.get_base_model()
    return {name: one for name, one in inner.named_modules() if isinstance(one, LoraLayer)}


def factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return a.detach(), b.detach(), layer.scaling["default"]


@pytest.mark.parametrize("initialization", ["pissa", "olora", "eva"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_adapter_begins_as_its_base_and_leaves_it_as_it_is(
    initialization: str, family: str, tiny_llama_folder: Path, tiny_bert_folder: Path
) -> None:
    folder = {"llama": tiny_llama_folder, "bert": tiny_bert_folder}[family]
    before = loaded(folder)
    model = adapted(folder, settings(initialization)).eval()
    weights = before.state_dict()
    for name, layer in layers_of(model).items():
        assert torch.equal(layer.get_base_layer().weight, weights[f"{name}.weight"])
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        difference = (model(input_ids=ids).logits - before(input_ids=ids).logits).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_a_trained_half_computes_what_pefts_adapter_on_its_changed_base_computes(
    initialization: str, method: str, tiny_llama_folder: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    ours = adapted(tiny_llama_folder, settings(initialization, method=method)).eval()
    theirs = get_peft_model(
        loaded(tiny_llama_folder),
        LoraConfig(
            r=RANK,
            lora_alpha=12,
            target_modules="all-linear",
            init_lora_weights=initialization,
            use_rslora=method == "rslora",
            task_type="CAUSAL_LM",
        ),
    ).eval()
    torch.manual_seed(0)
    others = layers_of(theirs)
    assert others.keys() == layers_of(ours).keys()
    for name, layer in layers_of(ours).items():
        a, b, scale = factors(layer)
        their_a, their_b, their_scale = factors(others[name])
        assert scale == pytest.approx(their_scale)
        # The frozen half is what peft has taken out of the weight.
        taken_out = their_scale * their_b @ their_a
        torch.testing.assert_close(scale * b[:, :RANK] @ a[:RANK], taken_out, rtol=0, atol=2e-3)
        # Both learn the same, measured from where they began.
        change = 0.1 * torch.randn_like(their_a)
        with torch.no_grad():
            turn = torch.linalg.lstsq(their_b, b[:, :RANK]).solution
            layer.lora_A["default"].weight[:RANK] += torch.linalg.solve(turn, change)
            others[name].lora_A["default"].weight += change
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=0, atol=2e-2
        )


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_only_one_half_learns(initialization: str, tiny_llama_folder: Path) -> None:
    model = adapted(tiny_llama_folder, settings(initialization))
    before = {name: factors(layer)[:2] for name, layer in layers_of(model).items()}
    before = {name: (a.clone(), b.clone()) for name, (a, b) in before.items()}
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        model(input_ids=torch.arange(5, 25)[None]).logits.square().mean().backward()
        optimizer.step()
    for name, layer in layers_of(model).items():
        (a, b, _), (first_a, first_b) = factors(layer), before[name]
        assert torch.equal(a[RANK:], first_a[RANK:])
        assert torch.equal(b[:, RANK:], first_b[:, RANK:])
        assert not torch.equal(a[:RANK], first_a[:RANK])
        assert not torch.equal(b[:, :RANK], first_b[:, :RANK])


def test_what_is_saved_has_twice_the_rank_and_the_same_scale(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    for method in ("lora", "rslora"):
        model = adapted(tiny_llama_folder, settings("pissa", method=method))
        scale = {"lora": 12 / RANK, "rslora": 12 / RANK**0.5}[method]
        for layer in layers_of(model).values():
            assert factors(layer)[2] == pytest.approx(scale)
        model.save_pretrained(tmp_path / method)
        saved = json.loads((tmp_path / method / "adapter_config.json").read_text())
        assert saved["r"] == 2 * RANK
        assert saved["init_lora_weights"] is True


def test_loftq_makes_up_for_four_bits_as_well_as_its_rank_can(tiny_llama_folder: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    model = adapted(tiny_llama_folder, settings("loftq"))
    whole = loaded(tiny_llama_folder).state_dict()
    for name, layer in layers_of(model).items():
        a, b, scale = factors(layer)
        packed = layer.get_base_layer().weight
        lost = whole[f"{name}.weight"] - dequantize_4bit(packed.data, packed.quant_state)
        values = torch.linalg.svdvals(lost)
        best = values[RANK:].square().sum().sqrt()
        found = torch.linalg.norm(lost - scale * b @ a)
        assert found <= 1.02 * best < torch.linalg.norm(lost)


def test_eva_looks_where_the_inputs_of_the_training_texts_vary_most(
    tiny_llama_folder: Path,
) -> None:
    qlora = settings("eva")
    model = adapted(tiny_llama_folder, qlora)
    windows = windows_of(tiny_llama_folder, qlora)
    assert windows is not None
    base = loaded(tiny_llama_folder).eval()
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers_of(model)}
    for name, module in base.named_modules():
        if name in inputs:
            module.register_forward_pre_hook(
                lambda _module, given, name=name: inputs[name].append(given[0].flatten(0, 1))
            )
    with torch.no_grad():
        for window in windows:
            base(input_ids=window)
    for name, layer in layers_of(model).items():
        a, b, _ = factors(layer)
        assert not b.any()
        assert a.shape[0] == RANK
        torch.testing.assert_close(a @ a.T, torch.eye(RANK), rtol=0, atol=1e-3)
        seen = torch.cat(inputs[name])
        seen = seen - seen.mean(0)
        best = torch.linalg.svdvals(seen)[:RANK].square().sum()
        assert (seen @ a.T).square().sum() >= 0.9 * best
        random = torch.linalg.qr(torch.randn(a.shape[1], RANK))[0]
        assert (seen @ random).square().sum() < 0.6 * best


def test_the_low_rank_part_is_the_one_with_the_largest_singular_values() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(70, 50)
    left, right = low_rank(matrix, 6)
    values = torch.linalg.svdvals(matrix)
    assert torch.linalg.norm(matrix - left @ right) <= 1.01 * values[6:].square().sum().sqrt()
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


@pytest.mark.parametrize("initialization", ["pissa", "olora", "eva", "loftq"])
def test_a_rank_beyond_a_layers_width_is_refused_without_weights(
    initialization: str, tiny_llama_folder: Path
) -> None:
    qlora = settings(initialization, r=512)
    model = skeleton(resolve_base(Model(name=str(tiny_llama_folder))))
    with pytest.raises(UserError, match=r"takes a part of rank 512 \(qlora.r\) of each layer"):
        check_adapter(model, qlora, "causal")


def test_eva_without_text_and_with_short_texts_is_refused(tiny_llama_folder: Path) -> None:
    qlora = settings("eva")
    with pytest.raises(UserError, match="add_adapter was given none"):
        add_adapter(loaded(tiny_llama_folder), qlora, "causal")
    tokenizer = load_tokenizer(tiny_llama_folder)
    with pytest.raises(UserError, match=r"at least 4 tokens \(qlora.r\)"):
        first_windows(qlora, tokenizer, ["a"], 64)


def test_loftq_on_a_base_that_was_stored_in_four_bits_is_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = quantised(tiny_llama_folder, tmp_path / "llama", 4)
    qlora = settings("loftq")
    base = resolve_base(Model(name=str(folder)))
    with pytest.raises(UserError, match="takes the weights as they were"):
        check_stored(base, Training(qlora=qlora))
    # And by whoever has not asked before.
    with pytest.raises(UserError, match="needs the unquantised model"):
        adapted(folder, qlora)
