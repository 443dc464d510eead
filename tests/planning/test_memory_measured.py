"""The memory plan against measured tensors: real layers, adapters, losses and optimisers.

The shapes, lengths and batches of the slow test are drawn anew in each run, so that nothing can
be fitted to them; the fast ones draw by their own name, so that a run is repeated by its name.
What is compared is the peak of all tensor memory of a step: the tensors that stand when it begins,
plus every allocation and release that torch's CPU allocator reports to the profiler. (A
`TorchDispatchMode` would miss what kernels allocate inside, and switches off autograd's sums in
place.)
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.config.sections import Optimizer, Training
from steps.config.tokenizer_section import Tokenizer
from steps.models.adapters import add_adapter
from steps.models.attention import PER_DOCUMENT_SDPA, register_per_document_attention
from steps.models.devices import Placement
from steps.models.fused import use_fused_adapters
from steps.models.layout import RowLayout
from steps.models.loading import load_model
from steps.models.losses import use_chunked_loss, use_masked_loss
from steps.models.new_tokens import NewTokens, give_embeddings
from steps.models.sources import Base, Objective
from steps.planning.models import model_from_config
from steps.planning.plan import MemoryPlan, plan_memory
from steps.training.muon import MuonWithAdamW
from steps.training.optimizers import parameter_groups
from steps.training.packing import Window, collate
from tests.support.measured_memory import mask_some, measured_training, peak_bytes, tensors_of

TOLERANCE = 0.10


class Case:
    """A random model, method, length and batch."""

    def __init__(self, seed: int, **fixed: Any) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.family = draw.choice(["llama", "bert"])
        self.method = draw.choice(["lora", "full"])
        self.checkpointing = draw.random() < 0.5
        self.half = draw.random() < 0.7
        self.accumulation = draw.choice([1, 2])
        self.rows = draw.randint(1, 3)
        self.length = draw.randint(16, 400)
        self.rank = draw.choice([2, 4, 8, 16])
        self.dropout = draw.choice([0.0, 0.05])
        self.offloads = False
        self.saved: tuple[str, ...] = ()
        self.initialization, self.optimizer = "default", "auto"
        self.new_tokens = 0
        vars(self).update(fixed)
        heads = draw.choice([2, 4, 6])
        width = heads * draw.choice([8, 16, 32])
        self.sizes: dict[str, Any] = {
            "model_type": self.family,
            "vocab_size": draw.randint(100, 3000),
            "hidden_size": width,
            "intermediate_size": draw.randint(width // 8, width // 2) * 8,
            "num_hidden_layers": draw.randint(1, 7),
            "num_attention_heads": heads,
            "max_position_embeddings": 512,
        }
        if self.family == "llama":
            self.sizes["num_key_value_heads"] = draw.choice([heads, heads // 2])
            self.sizes["tie_word_embeddings"] = draw.random() < 0.5

    def __repr__(self) -> str:
        return f"Case({vars(self)})"

    @property
    def training(self) -> Training:
        training = measured_training(
            self.method,
            self.accumulation,
            checkpointing=self.checkpointing,
            offloads=self.offloads,
            r=self.rank,
            lora_dropout=self.dropout,
            modules_to_save=self.saved,
            initialization=self.initialization,
        )
        words = tuple(f"GENE{number}" for number in range(self.new_tokens))
        update = {
            "optimizer": Optimizer(type=self.optimizer),
            "tokenizer": Tokenizer(new_tokens=words or None),
        }
        return training.model_copy(update=update)

    def plan(self, model: Any) -> MemoryPlan:
        return plan_memory(
            model_from_config({**model.config.to_dict(), "vocab_size": self.sizes["vocab_size"]}),
            self.training,
            micro_batch=self.rows,
            length=self.length,
            placement=Placement("cpu", "bfloat16" if self.half else "float32"),
        )

    def build(self, folder: Path) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

        objective: Objective = "causal" if self.family == "llama" else "masked"
        auto = AutoModelForCausalLM if objective == "causal" else AutoModelForMaskedLM
        frozen = torch.bfloat16 if self.half and self.method != "full" else torch.float32
        model = auto.from_config(AutoConfig.for_model(**self.sizes), dtype=frozen)
        qlora = self.training.qlora
        if qlora.bits < 16:
            model.save_pretrained(folder)
            base = Base("tiny", "folder", None, "", objective, "", folder)
            model = load_model(base, qlora.quantization, qlora.bits, frozen, "cpu")
        new = tuple(self.sizes["vocab_size"] + number for number in range(self.new_tokens))
        if new:
            give_embeddings(model, NewTokens((), new, ((1, 2),) * len(new)))
        # As the trainer does: a cache would keep copies of all keys and values.
        model.config.use_cache = False
        register_per_document_attention()
        model.set_attn_implementation(PER_DOCUMENT_SDPA)
        if objective == "causal":
            use_chunked_loss(model)
        else:
            use_masked_loss(model)
        windows = [torch.arange(64)[None] % self.sizes["vocab_size"]]
        adapted = add_adapter(model, qlora, objective, windows, new)
        use_fused_adapters(adapted)
        if self.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False}, offload=self.offloads)
        adapted.train()
        return adapted

    def step(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        vocabulary = self.sizes["vocab_size"]
        for _ in range(self.accumulation):
            rows = [
                [
                    Window(
                        np.array(random.choices(range(vocabulary), k=self.length), dtype=np.int32),
                        1,
                    )
                ]
                for _ in range(self.rows)
            ]
            batch = collate(rows, RowLayout("packed"), 0)
            if self.family == "bert":
                mask_some(batch["labels"], self.training.masking.probability)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                loss = model(**batch).loss
            loss.backward()
            del loss, batch
        optimizer.step()
        optimizer.zero_grad()

    def planned_and_measured(self, folder: Path) -> tuple[int, int]:
        model = self.build(folder)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(trained, fused=True)
        if self.optimizer == "muon":
            optimizer = MuonWithAdamW(parameter_groups(self.training, model, ()), lr=1e-3)
        self.step(model, optimizer)
        measured = peak_bytes(lambda: self.step(model, optimizer), tensors_of(model, optimizer))
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        plan = self.plan(inner)
        assert plan.trained_parameters == sum(weight.numel() for weight in trained), self
        return plan.total, measured


def check(case: Case, folder: Path) -> None:
    planned, measured = case.planned_and_measured(folder)
    assert planned == pytest.approx(measured, rel=TOLERANCE), (planned / measured, case)


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_plan_is_within_a_tenth_of_measured_tensors_on_random_shapes(
    family: str, method: str, checkpointing: bool, tmp_path: Path
) -> None:
    seed = random.Random(f"{family} {method} {checkpointing}").randrange(2**32)
    check(Case(seed, family=family, method=method, checkpointing=checkpointing), tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_plan_is_within_a_tenth_of_measured_tensors_for_weights_in_four_bits(
    family: str, tmp_path: Path
) -> None:
    seed = random.Random(f"{family} qlora").randrange(2**32)
    check(Case(seed, family=family, method="qlora"), tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_plan_is_within_a_tenth_of_measured_tensors_with_offloaded_checkpoints(
    family: str, tmp_path: Path
) -> None:
    seed = random.Random(f"{family} offloaded").randrange(2**32)
    case = Case(seed, family=family, method="lora", checkpointing=True, offloads=True)
    check(case, tmp_path / "model")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_plan_is_within_a_tenth_of_measured_tensors_with_a_head_that_is_trained_whole(
    seed: int, tmp_path: Path
) -> None:
    case = Case(seed, family="llama", method="lora", saved=("lm_head",))
    check(case, tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize(
    "fixed",
    [
        {"method": "lora", "initialization": "pissa"},
        {"method": "lora", "initialization": "olora"},
        {"method": "lora", "initialization": "eva"},
        {"method": "qlora", "initialization": "loftq"},
        {"method": "lora", "new_tokens": 20},
        {"method": "lora", "optimizer": "muon"},
        {"method": "full", "optimizer": "muon"},
    ],
    ids=lambda fixed: "-".join(map(str, fixed.values())),
)
def test_the_plan_is_within_a_tenth_of_measured_tensors_however_an_adapter_begins(
    family: str, fixed: dict[str, Any], tmp_path: Path
) -> None:
    seed = random.Random(f"{family} {sorted(fixed.items())}").randrange(2**32)
    check(Case(seed, family=family, rank=4, **fixed), tmp_path / "model")


@pytest.mark.parametrize(
    ("seed", "family", "method"),
    [
        (1681295776, "llama", "dora"),
        (3618196973, "bert", "dora"),
        (2467764733, "bert", "qlora"),
        (494189852, "bert", "rslora"),
    ],
)
def test_what_a_small_shape_shows_of_fixed_costs_and_passing_copies_is_planned(
    seed: int, family: str, method: str, tmp_path: Path
) -> None:
    # Off by 5 to 11% before random states of checkpointed layers, operands cast for the time of an
    # operation, and sums of reshaped gradients were planned.
    planned, measured = Case(seed, family=family, method=method).planned_and_measured(tmp_path)
    assert planned == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
def test_the_plan_stays_within_a_tenth_over_many_random_shapes(tmp_path: Path) -> None:
    for number in range(60):
        seed = random.SystemRandom().randrange(2**32)
        method = random.choice(["lora", "rslora", "full", "qlora", "lora_8bit", "dora"])
        check(Case(seed, method=method), tmp_path / str(number))
