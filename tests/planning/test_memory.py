"""The memory plan by itself: sizes follow from definitions, and searches keep their promises."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.config.file import load_config
from steps.config.sections import MemoryOptimization, Model, Training
from steps.errors import UserError
from steps.models.devices import Placement
from steps.plan import main, run_plan
from steps.planning import skeleton
from steps.planning.models import model_from_config, model_to_plan, plain_model
from steps.planning.plan import (
    GIB,
    MemoryPlan,
    disk_plan,
    largest_micro_batch,
    longest_context,
    optimizer_of,
    placement_of,
    plan_memory,
    time_plan,
)
from steps.planning.sizes import NF4_BLOCK, NF4_NESTED_BLOCK, PARTS
from steps.planning.step import traced
from steps.planning.suggestions import check_fits, suggestions, with_auto_batch_size, with_overrides

LLAMA_7B = model_to_plan(Model(name="meta-llama/Llama-2-7b-hf"))
SIZES: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TINY = model_from_config(SIZES, "tiny")
# What its rotary positions hold beside the weights: two tables of 64 numbers.
ROTARY_BYTES = 2 * 64 * 4


def training(overrides: str = "") -> Training:
    return with_overrides(Training(), overrides)


FULL = (
    "training.qlora.enabled=false training.qlora.method=full "
    "training.qlora.quantization.load_in_4bit=false"
)


def test_llama_2_is_known_by_heart_and_has_its_published_number_of_weights() -> None:
    assert LLAMA_7B.parameters == 6_738_415_616
    assert model_to_plan(Model(name="NousResearch/Llama-2-13b-hf")).parameters == (13_015_864_320)


def nf4_bytes(weights: int) -> int:
    """By the format's definition, with double quantisation."""
    blocks = math.ceil(weights / NF4_BLOCK)
    scales = blocks + 4 * math.ceil(blocks / NF4_NESTED_BLOCK) + 4
    return math.ceil(weights / 2) + scales + 4 * 16 + 4 * 256


def test_frozen_weights_take_the_bytes_of_their_number_format() -> None:
    def weights(overrides: str) -> int:
        plan = plan_memory(LLAMA_7B, training(overrides), micro_batch=1, length=64)
        return plan.parts["weights"] - ROTARY_BYTES

    assert weights("training.qlora.method=lora") == 2 * LLAMA_7B.parameters
    kept = 2 * (2 * 32000 * 4096 + 65 * 4096)  # embedding, head and norms are not quantised
    linear = [4096 * 4096] * 4 + [4096 * 11008] * 3
    assert weights("training.qlora.method=qlora") == kept + 32 * sum(nf4_bytes(n) for n in linear)
    assert weights(FULL) == 4 * LLAMA_7B.parameters


def test_all_experts_are_counted_and_stay_in_16_bits_where_they_are_no_linear_layers() -> None:
    mixtral = model_from_config(
        {
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
        },
        "Mixtral-8x7B",
    )
    assert mixtral.parameters == 46_702_792_704
    # Dropout on fused experts is none of peft's; the attention is what is adapted here.
    chosen = training('training.qlora.target_modules=["q_proj","v_proj"]')
    weights = plan_memory(mixtral, chosen, micro_batch=1, length=64).parts["weights"]
    experts = 32 * 8 * 3 * 4096 * 14336
    assert 2 * experts < weights < 2 * experts + mixtral.parameters - experts


def test_moments_take_eight_bytes_a_weight_or_two_and_their_scales() -> None:
    def optimizer(kind: str) -> tuple[int, int]:
        settings = training(f"training.optimizer.type={kind} training.qlora.r=8")
        plan = plan_memory(LLAMA_7B, settings, micro_batch=1, length=64)
        return plan.parts["optimizer"], plan.trained_parameters

    size, trained = optimizer("adamw_torch_fused")
    assert trained == 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert size == 8 * trained
    assert optimizer("paged_adamw_8bit")[0] == 2 * trained + 8 * trained // 256


def test_parts_add_up_and_are_all_there() -> None:
    plan = plan_memory(LLAMA_7B, training(), micro_batch=2, length=512)
    assert tuple(plan.parts) == PARTS
    assert plan.total == sum(plan.parts.values()) == plan.tensor_bytes + plan.parts["reserve"]
    assert all(size >= 0 for size in plan.parts.values())


BERT_SIZES = SIZES | {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
# Layers of two kinds in turn, after one that is of neither.
JAMBA_SIZES = SIZES | {
    "model_type": "jamba",
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
    "num_experts": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}


@pytest.mark.parametrize("checkpointing", ["true", "false"])
@pytest.mark.parametrize(
    ("sizes", "method"),
    [
        (SIZES, "qlora"),
        (SIZES, "full"),
        (BERT_SIZES, "qlora"),
        (BERT_SIZES, "full"),
        (JAMBA_SIZES, "lora"),
        (JAMBA_SIZES, "full"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_a_deep_model_extrapolated_from_two_depths_equals_its_whole_trace(
    sizes: dict[str, Any], checkpointing: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = model_from_config({**sizes, "num_hidden_layers": 9}, "deep")
    overrides = FULL if method == "full" else f"training.qlora.method={method}"
    settings = training(
        f"{overrides} training.memory_optimization.gradient_checkpointing={checkpointing} "
        'training.qlora.target_modules=".*(q_proj|v_proj|query|value)"'
    )
    extrapolated = plan_memory(deep, settings, micro_batch=2, length=48)
    monkeypatch.setattr(
        "steps.planning.skeleton.depths_of",
        lambda model: replace(skeleton_depths(model), traced=(9,)),
    )
    traced.cache_clear()
    whole = plan_memory(deep, settings, micro_batch=2, length=48)
    traced.cache_clear()
    assert extrapolated.total == whole.total
    assert extrapolated.trained_parameters == whole.trained_parameters
    assert extrapolated.moment == whole.moment


skeleton_depths = skeleton.depths_of


@settings(max_examples=4, deadline=None)
@given(
    rows=st.integers(1, 4),
    length=st.integers(2, 700),
    checkpointing=st.booleans(),
    method=st.sampled_from(["lora", "qlora", "lora_8bit", "dora"]),
)
def test_more_tokens_never_take_less(
    rows: int, length: int, checkpointing: bool, method: str
) -> None:
    chosen = training(
        f"training.qlora.method={method} training.qlora.quantization.load_in_4bit=false "
        f"training.memory_optimization.gradient_checkpointing={str(checkpointing).lower()}"
    )

    def total(rows: int, length: int) -> int:
        return plan_memory(TINY, chosen, micro_batch=rows, length=length).total

    assert total(rows, length) <= total(rows + 1, length)
    assert total(rows, length) <= total(rows, length + 1)


@settings(max_examples=2, deadline=None)
@given(mib=st.integers(5, 60), length=st.integers(100, 600), checkpointing=st.booleans())
def test_the_largest_that_fits_fits_and_one_more_does_not(
    mib: int, length: int, checkpointing: bool
) -> None:
    chosen = training(
        "training.qlora.method=lora "
        f"training.memory_optimization.gradient_checkpointing={str(checkpointing).lower()}"
    )
    here = placement_of(chosen, "cpu")
    budget = mib * 2**20

    def total(rows: int, length: int) -> int:
        plan = plan_memory(TINY, chosen, micro_batch=rows, length=length, placement=here)
        return plan.total

    rows = largest_micro_batch(TINY, chosen, budget, length=length, placement=here)
    assert rows == 0 or total(rows, length) <= budget
    assert total(rows + 1, length) > budget
    context = longest_context(TINY, chosen, budget, placement=here)
    assert context == 0 or total(1, context) <= budget
    assert total(1, context + 1) > budget


def test_a_bert_context_ends_with_its_positions() -> None:
    bert = model_to_plan(Model(name="all-MiniLM-L6-v2"))
    assert longest_context(bert, training(), 80 * GIB) == 512


@pytest.mark.parametrize(
    ("overrides", "rows", "length"),
    [
        ("training.qlora.method=lora", 8, 1024),
        ("training.memory_optimization.gradient_checkpointing=false", 8, 2048),
        (FULL, 2, 1024),
        ("training.optimizer.type=adamw training.qlora.r=64", 16, 4096),
    ],
)
def test_what_cannot_fit_is_refused_with_changes_that_do_make_it_fit(
    overrides: str, rows: int, length: int
) -> None:
    chosen = training(overrides)
    budget = 16 * GIB
    with pytest.raises(UserError, match=r"needs \d+\.\d GiB, and there are 16\.0 GiB") as refusal:
        check_fits(LLAMA_7B, chosen, budget, micro_batch=rows, length=length)
    found = suggestions(LLAMA_7B, chosen, budget, micro_batch=rows, length=length)
    assert 2 <= len(found) <= 3
    start = with_overrides(
        chosen, f"training.hyperparameters.batch_size={rows} training.model.max_length={length}"
    )
    before = rows * chosen.hyperparameters.gradient_accumulation_steps
    for suggestion in found:
        assert suggestion.overrides in str(refusal.value)
        mended = with_overrides(start, suggestion.overrides)
        mended_rows = mended.hyperparameters.batch_size
        assert isinstance(mended_rows, int)
        plan = plan_memory(
            LLAMA_7B, mended, micro_batch=mended_rows, length=mended.model.max_length
        )
        assert plan.total == suggestion.total <= mended.memory_optimization.gpu_memory_gb * GIB
        # Fewer rows at a time are made up for: the optimiser sees at least as many.
        assert mended_rows * mended.hyperparameters.gradient_accumulation_steps >= before


def test_what_nothing_mends_is_refused_in_one_line_without_advice() -> None:
    chosen = training()
    with pytest.raises(UserError, match="No setting makes it fit") as refusal:
        check_fits(
            LLAMA_7B, chosen, GIB, micro_batch=1, length=64, placement=placement_of(chosen, "cpu")
        )
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("gib", [7, 9, 12, 80])
def test_auto_takes_the_largest_micro_batch_that_fits_and_keeps_the_rows_of_a_step(
    gib: int,
) -> None:
    chosen = training(
        "training.hyperparameters.batch_size=auto "
        "training.hyperparameters.gradient_accumulation_steps=24"
    )
    settled = with_auto_batch_size(LLAMA_7B, chosen, gib * GIB, length=1024).hyperparameters
    rows = settled.batch_size
    assert isinstance(rows, int)
    assert rows * settled.gradient_accumulation_steps == 24
    fitting = largest_micro_batch(LLAMA_7B, chosen, gib * GIB, length=1024)
    assert rows == max(n for n in range(1, min(fitting, 16) + 1) if 24 % n == 0)


def test_a_stated_micro_batch_is_kept_and_auto_is_one_row_where_nothing_fits() -> None:
    assert with_auto_batch_size(LLAMA_7B, training(), GIB, length=64) == training()
    chosen = training("training.hyperparameters.batch_size=auto")
    assert with_auto_batch_size(LLAMA_7B, chosen, GIB, length=64).hyperparameters.batch_size == 1


def test_offloaded_checkpoints_leave_the_gpu_for_the_host() -> None:
    plain, offloading = (
        plan_memory(
            LLAMA_7B,
            training(f"training.memory_optimization.offload_activations={offloads}"),
            micro_batch=1,
            length=8192,
        )
        for offloads in ("false", "true")
    )
    assert offloading.host_bytes == 32 * 8192 * 4096 * 2
    assert plain.host_bytes == 0
    # All but the one that is being recomputed from, and its copy on the way.
    assert plain.total - offloading.total == pytest.approx(offloading.host_bytes, rel=0.1)


def test_offloading_without_checkpointing_is_refused() -> None:
    with pytest.raises(ValueError, match="offload_activations is true, but what it moves"):
        MemoryOptimization(gradient_checkpointing=False, offload_activations=True)


def test_zero_shares_what_its_stage_partitions() -> None:
    def parts(stage: int) -> dict[str, int]:
        return plan_memory(
            TINY,
            training(FULL),
            micro_batch=1,
            length=64,
            placement=Placement("cuda", "bfloat16", 4, stage),
        ).parts

    trained = plan_memory(TINY, training(FULL), micro_batch=1, length=64).trained_parameters
    # In half precision, with a float32 copy and two moments in the optimiser.
    assert parts(1)["optimizer"] == 12 * trained // 4
    assert parts(1)["gradients"] == 2 * trained
    assert parts(2)["gradients"] == 2 * trained // 4
    assert parts(2)["weights"] == 2 * trained
    # What is whole at a time is here the whole of this small model.
    assert parts(3)["weights"] == 2 * trained // 4 + 2 * trained


def test_fsdp2_shares_weights_and_moments_out_and_keeps_adapters_in_float32() -> None:
    def planned(stage: int, fully_sharded: bool) -> MemoryPlan:
        placement = Placement("cuda", "bfloat16", 4, stage, fully_sharded)
        lora = training("training.qlora.method=lora")
        return plan_memory(TINY, lora, micro_batch=1, length=64, placement=placement)

    shared, zero_3, alone = planned(0, True), planned(3, False), planned(0, False)
    assert shared.parts["weights"] == zero_3.parts["weights"] != alone.parts["weights"]
    assert shared.parts["optimizer"] < min(zero_3.parts["optimizer"], alone.parts["optimizer"])
    assert any("fsdp2" in note.lower() for note in shared.notes)


def test_under_zero_3_a_process_loads_its_share_and_a_parameter_or_says_why_the_whole() -> None:
    def plan(overrides: str) -> MemoryPlan:
        placement = Placement("cuda", "bfloat16", 4, 3)
        return plan_memory(TINY, training(overrides), micro_batch=1, length=64, placement=placement)

    sizes = [weight.numel() for weight in plain_model(TINY, "bfloat16").parameters()]
    lora = plan("training.qlora.method=lora training.qlora.quantization.load_in_4bit=false")
    assert lora.loading == pytest.approx(2 * sum(sizes) / 4 + 2 * max(sizes), rel=2e-3)
    assert any("reads its own share" in note for note in lora.notes)
    full = plan(FULL)
    # In float32, as every weight is trained.
    assert full.loading == pytest.approx(4 * sum(sizes), rel=2e-3)
    assert any("whole" in note and "method full" in note for note in full.notes)
    alone = plan_memory(TINY, training(FULL), micro_batch=1, length=64)
    assert alone.loading == 0


def test_scales_of_4_bit_weights_are_shared_out_under_no_stage() -> None:
    def weights(processes: int, double: bool) -> int:
        chosen = training(f"training.qlora.quantization.bnb_4bit_use_double_quant={double}")
        placement = Placement("cuda", "bfloat16", processes, 3)
        plan = plan_memory(LLAMA_7B, chosen, micro_batch=1, length=64, placement=placement)
        return plan.parts["weights"]

    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    # One number of four bytes to 64 weights, or of one, and one of four to 256 of those.
    plain, nested = 4 * layers // 64, layers // 64 + 4 * layers // (64 * 256)
    saved = [weights(n, double=False) - weights(n, double=True) for n in (8, 1024)]
    assert saved == [pytest.approx(plain - nested, rel=1e-3)] * 2


@pytest.mark.parametrize(
    ("rows", "length", "overrides", "lowest_gb", "highest_gb"),
    [
        # LLaMA-Factory's wiki, LLaMA-2 7B in 4 bits, r 8: Unsloth with FA2, and plain FA2.
        (1, 1024, "training.hyperparameters.gradient_accumulation_steps=4", 5, 6),
        (1, 4096, "training.hyperparameters.gradient_accumulation_steps=4", 7, 9),
        (1, 16384, "training.hyperparameters.gradient_accumulation_steps=4", 10, 19),
        (1, 32768, "training.hyperparameters.gradient_accumulation_steps=4", 16, 32),
        (4, 1024, "training.hyperparameters.gradient_accumulation_steps=2", 7, 9),
    ],
)
def test_llama_2_7b_lies_between_the_published_figures_of_a_lean_and_a_plain_trainer(
    rows: int, length: int, overrides: str, lowest_gb: int, highest_gb: int
) -> None:
    chosen = training(f"{overrides} training.qlora.r=8 training.qlora.lora_dropout=0.0")
    plan = plan_memory(LLAMA_7B, chosen, micro_batch=rows, length=length)
    # Published in whole gigabytes.
    assert lowest_gb - 0.5 <= plan.total / 1e9 <= highest_gb + 0.5


def test_the_optimiser_that_is_planned_is_the_one_that_trains() -> None:
    from steps.training.optimizers import optimizer_name

    for wanted in ("auto", "AdamW", "adam", "sgd", "paged_adamw_8bit", "muon"):
        for device in ("cpu", "cuda"):
            assert optimizer_of(wanted, device) == optimizer_name(wanted, device)


def test_what_transformers_cannot_build_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="x: model_type 'nonsense' is no language model"):
        model_from_config({"model_type": "nonsense"}, "x")
    broken = model_from_config(SIZES | {"num_attention_heads": 5}, "broken")
    with pytest.raises(UserError, match="broken: transformers cannot"):
        plan_memory(broken, training(), micro_batch=1, length=8)


def test_adapters_on_layers_that_are_not_there_are_refused_by_the_names_that_are() -> None:
    chosen = training('training.qlora.target_modules=["down_prod"]')
    with pytest.raises(UserError, match=r"target_modules names 'down_prod'.*down_proj") as refusal:
        plan_memory(TINY, chosen, micro_batch=1, length=8)
    assert "\n" not in str(refusal.value)


def test_time_and_disk_follow_from_tokens_rate_and_trained_weights() -> None:
    assert time_plan(7_200_000, 1000).hours == 2.0
    with pytest.raises(UserError, match="give a number above 0"):
        time_plan(1, 0)
    chosen = training("training.logging.save_steps=50 training.output.save_total_limit=2")
    plan = plan_memory(LLAMA_7B, chosen, micro_batch=1, length=8)
    disk = disk_plan(LLAMA_7B, chosen, optimizer_steps=120)
    assert disk.base_model == 2 * LLAMA_7B.parameters
    assert disk.checkpoint == 4 * plan.trained_parameters + plan.optimizer_state
    assert disk.local == 3 * disk.checkpoint
    assert disk.tracked == 3 * disk.checkpoint + 4 * plan.trained_parameters


def test_the_plan_program_leaves_its_plan_in_its_run_and_says_whether_it_fits(store: str) -> None:
    import mlflow

    arguments = ["--tokens", "20000000", "--tokens-per-second", "2000"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "it fits" in result.output
    run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
    assert run.info.status == "FINISHED"
    written = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/plan.json")
    expected = run_plan(
        load_config("configs/training.yaml").training,
        tokens=20_000_000,
        tokens_per_second=2000.0,
    )
    assert written == expected.as_json()
    assert written["memory"]["total"] == sum(written["memory"]["parts"].values())

    result = CliRunner().invoke(main, ["--overrides", FULL])
    assert result.exit_code == 0, result.output
    assert "it does not fit" in result.output
    assert "training.qlora.method=qlora" in result.output


@pytest.mark.parametrize("text", ["[1]", '{"model_type": "llama", ', '{"model_type": "whatnot"}'])
def test_a_config_that_says_no_model_is_one_line_and_no_plan(
    store: str, tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    result = CliRunner().invoke(main, ["--overrides", f"training.model.name={tmp_path}"])
    assert result.exit_code == 2, result.output
    (line,) = (one for one in result.output.splitlines() if one.startswith("error: "))
    assert line.startswith("error: no plan: ")
    assert "config.json" in line or "'whatnot'" in line
