"""A base under ZeRO-3: each rank reads and holds its own share, and the model is the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.config.sections import Model, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.shares import load_base
from steps.models.sources import resolve_base
from steps.models.stored import StoredTensors
from steps.planning.loading import plan_loading
from steps.planning.models import model_from_config
from tests.support.rank_trainings import run_ranks

RANKS = 2
METHODS = ("lora", "qlora", "plain_scales")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model whose head has its own weights, one whose head is tied, and a damaged one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.tiny_models import save_tiny_llama

    root = tmp_path_factory.mktemp("models")
    own = save_tiny_llama(root / "own", ["Variants of BRCA1 were found in families."] * 9)
    tied = save_tiny_llama(root / "tied", ["Variants of BRCA1 were found in families."] * 9)
    model = AutoModelForCausalLM.from_pretrained(own)
    (own / "model.safetensors").unlink()
    # In 16 bits, a file for each tensor: what is mapped at a time counts as allocated.
    model.to(torch.bfloat16).save_pretrained(own, max_shard_size="1KB")
    config = AutoConfig.from_pretrained(tied)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    return {"own": str(own), "tied": str(tied)}


@pytest.fixture(scope="module")
def of_ranks(
    folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two ranks has found of each case."""
    own, tied = folders["own"], folders["tied"]
    cases = {
        "lora": {"folder": own, "method": "lora"},
        "qlora": {"folder": own, "method": "qlora"},
        "plain_scales": {"folder": own, "method": "qlora", "double_quant": False},
        "tied": {"folder": tied, "method": "lora"},
        "kept": {"folder": own, "method": "lora", "modules_to_save": ["lm_head"]},
        "kept_tied": {"folder": tied, "method": "lora", "modules_to_save": ["lm_head"]},
    }
    folder = tmp_path_factory.mktemp("ranks")
    file = folder / "cases.json"
    file.write_text(json.dumps({"cases": cases, "out": str(folder / "out")}))
    finished = run_ranks("tests.support.shares_program", file, RANKS)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return [json.loads((folder / f"out-{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("case", [*METHODS, "tied", "kept", "kept_tied"])
def test_a_base_in_shares_is_the_base_that_is_loaded_whole_to_the_last_bit(
    of_ranks: list[dict[str, Any]], case: str
) -> None:
    for found in (one[case] for one in of_ranks):
        assert found["whole"] == ""
        assert found["names"] and found["different"] == []
        assert found["logits"] == 0


@pytest.mark.parametrize("case", METHODS)
def test_no_rank_allocates_more_than_its_share_and_the_parameter_that_it_reads(
    of_ranks: list[dict[str, Any]], case: str
) -> None:
    for found in (one[case] for one in of_ranks):
        assert found["resident"] == 0
        # Each parameter is filled up to a multiple of the ranks.
        assert found["share"] <= (found["bytes"] + 4 * 64) / RANKS
        small = found["buffers"] + found["scales"] + 16_384
        assert found["peak"] <= found["share"] + found["largest"] + small


@pytest.mark.parametrize("case", METHODS)
def test_the_plan_says_what_a_rank_allocates(
    of_ranks: list[dict[str, Any]], case: str, folders: dict[str, str]
) -> None:
    content = json.loads((Path(folders["own"]) / "config.json").read_text())
    quantization = Quantization(
        load_in_4bit=case != "lora", bnb_4bit_use_double_quant=case == "qlora"
    )
    qlora = Qlora(method="lora" if case == "lora" else "qlora", quantization=quantization)
    for found in (one[case] for one in of_ranks):
        weights = found["bytes"] + found["scales"]
        plan = plan_loading(model_from_config(content), qlora, weights, RANKS, 4)
        assert plan.scales == found["scales"]
        assert plan.bytes == pytest.approx(found["peak"], rel=0.1)


def test_what_is_trained_whole_stays_whole_until_deepspeed_takes_it(
    of_ranks: list[dict[str, Any]],
) -> None:
    assert of_ranks[0]["kept"]["kept_whole"] == ["lm_head.weight"]
    # The one weight that both share.
    assert of_ranks[0]["kept_tied"]["kept_whole"] == ["model.embed_tokens.weight"]
    assert of_ranks[0]["lora"]["kept_whole"] == []


STAGE_3 = {"zero_optimization": {"stage": 3}}


def whole(folder: Path | str, method: str, settings: dict[str, Any] | None = None) -> str:
    """Why a base is loaded whole."""
    quantization = Quantization(load_in_4bit=method == "qlora", load_in_8bit=method == "lora_8bit")
    training = Training(
        model=Model(name=str(folder)),
        qlora=Qlora(method=method, enabled=method != "full", quantization=quantization),  # type: ignore[arg-type]
    )
    loaded = load_base(
        resolve_base(training.model), training, torch.float32, "cpu", settings or STAGE_3
    )
    # It is there, and nothing of it is DeepSpeed's.
    assert all(one.numel() for one in loaded.model.parameters())
    return loaded.whole


@pytest.mark.parametrize("method", ["full", "dora"])
def test_a_method_that_reads_every_weight_is_loaded_whole_by_name(
    folders: dict[str, str], method: str
) -> None:
    assert f"method {method} " in whole(folders["own"], method)


def test_weights_on_a_disk_of_their_own_are_loaded_whole(folders: dict[str, str]) -> None:
    settings = {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}
    assert "NVMe" in whole(folders["own"], "lora", settings)


def test_experts_that_transformers_fuses_are_loaded_whole_by_name(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    reason = whole(tmp_path, "lora")
    assert "MixtralForCausalLM" in reason and "experts" in reason


def test_tensors_of_other_names_are_loaded_whole_by_name(
    folders: dict[str, str], tmp_path: Path
) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "LayerNorm.gamma for BertForMaskedLM" in whole(tmp_path, "lora")


def test_a_file_that_is_cut_off_is_refused_by_name(tmp_path: Path, folders: dict[str, str]) -> None:
    content = (Path(folders["tied"]) / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"weights of cut are damaged \(model.safetensors"):
        StoredTensors.of(tmp_path, "cut")


def test_a_range_of_a_stored_tensor_leaves_the_rest_of_the_target_alone(tmp_path: Path) -> None:
    numbers = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    save_file({"one": numbers}, tmp_path / "model.safetensors")
    target = torch.full((3, 4), -1.0)
    StoredTensors.of(tmp_path, "it").copy_into(target, "one", 3, 7)
    assert target.flatten().tolist() == [-1, -1, -1, 3, 4, 5, 6, -1, -1, -1, -1, -1]
