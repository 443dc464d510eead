"""The memory plan against measured tensors, over the listed classes of models."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.config.sections import MemoryOptimization, Qlora, Quantization, Training
from steps.errors import UserError
from steps.models.adapters import add_adapter
from steps.models.attention import PER_DOCUMENT_SDPA, register_per_document_attention
from steps.models.devices import Placement
from steps.models.fused import use_fused_adapters
from steps.models.layout import RowLayout
from steps.models.loading import load_model
from steps.models.losses import use_chunked_loss, use_masked_loss
from steps.models.sources import Base
from steps.planning.models import CannotPlan, model_from_config
from steps.planning.plan import plan_memory
from steps.planning.skeleton import declared_layout
from steps.training.packing import Window, collate
from tests.support.architectures import ARCHITECTURES, CAUSAL, Architecture
from tests.support.measured_memory import mask_some, measured_training, peak_bytes, tensors_of

TOLERANCE = 0.10

# BigBird and Nyströmformer take no rows of any length.
NOT_TRAINED_HERE = {"big_bird", "nystromformer"}
# Of experts as 3-D parameters peft drops nothing out; bitsandbytes quantises no layer of Falcon's.
WITHOUT_DROPOUT = {"qwen3_next", "mixtral", "qwen3_moe", "deepseek_v3"}
NOT_QUANTISED = {"falcon"}
WITHOUT_CHECKPOINTS = {"ctrl", "albert", "mpnet", "funnel", "squeezebert"}
# FNet's Fourier transform knows float32 alone, and DeBERTa fills its masks with float32's least.
IN_FLOAT32_ALONE = {"fnet", "deberta"}
TRAINED = [one for one in ARCHITECTURES if str(one) not in NOT_TRAINED_HERE]


class Case:
    """A tiny member of a class, with a random method, length and batch."""

    def __init__(self, architecture: Architecture, seed: object, methods: tuple[str, ...]) -> None:
        draw = random.Random(f"{architecture} {seed}")
        self.architecture = architecture
        self.method = draw.choice(methods)
        if str(architecture) in NOT_QUANTISED and self.method == "qlora":
            self.method = "lora"
        self.checkpointing = str(architecture) not in WITHOUT_CHECKPOINTS and draw.random() < 0.5
        self.half = str(architecture) not in IN_FLOAT32_ALONE and draw.random() < 0.6
        self.accumulation = draw.choice([1, 2])
        self.rows, self.length = draw.randint(1, 3), draw.randint(40, 200)
        self.changes: dict[str, Any] = {}
        if architecture.plain and not {"layer_types", "attn_layer_indices"} & set(
            architecture.settings
        ):
            self.changes["num_hidden_layers"] = draw.randint(2, 6)
        if architecture.plain:
            self.changes["intermediate_size"] = 32 * draw.randint(1, 8)

    def __repr__(self) -> str:
        return f"Case({vars(self)})"

    @property
    def training(self) -> Training:
        return measured_training(
            self.method,
            self.accumulation,
            checkpointing=self.checkpointing,
            r=4,
            lora_dropout=0.0 if str(self.architecture) in WITHOUT_DROPOUT else 0.05,
        )

    def planned(self) -> int:
        architecture = self.architecture
        config = architecture.config(**self.changes).to_dict()
        return plan_memory(
            model_from_config(config, str(architecture), architecture.objective),
            self.training,
            micro_batch=self.rows,
            length=self.length,
            placement=Placement("cpu", "bfloat16" if self.half else "float32"),
        ).total

    def measured(self, folder: Path) -> int:
        objective, qlora = self.architecture.objective, self.training.qlora
        frozen = torch.bfloat16 if self.half and self.method != "full" else torch.float32
        model = self.architecture.build(**self.changes).to(frozen)
        if qlora.bits < 16:
            model.save_pretrained(folder)
            base = Base("tiny", "folder", None, "", objective, "", folder)
            model = load_model(base, qlora.quantization, qlora.bits, frozen, "cpu")
        layout = declared_layout(model)
        model.config.use_cache = False
        if layout == "packed":
            register_per_document_attention()
            model.set_attn_implementation(PER_DOCUMENT_SDPA)
        if objective == "causal":
            use_chunked_loss(model)
        else:
            use_masked_loss(model)
        adapted = add_adapter(model, qlora, objective)
        use_fused_adapters(adapted)
        if self.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        adapted.train()
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        rows = 1 if layout == "single" else self.rows

        def step() -> None:
            for _ in range(self.accumulation):
                # The last row is a token shorter: where rows are padded, some are.
                lengths = [self.length] * (rows - 1) + [self.length - (rows > 1)]
                windows = [
                    [Window(np.array(random.choices(range(5, 390), k=length), dtype=np.int32), 1)]
                    for length in lengths
                ]
                batch = collate(windows, RowLayout(layout), 2)
                if objective == "masked":
                    mask_some(batch["labels"], self.training.masking.probability)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                    loss = adapted(**batch).loss
                loss.backward()
                del loss, batch
            optimizer.step()
            optimizer.zero_grad()

        step()
        return peak_bytes(step, tensors_of(adapted, optimizer))


def named(name: str) -> Architecture:
    return next(one for one in ARCHITECTURES if str(one) == name)


@pytest.mark.parametrize(
    "name", ["gemma2", "gemma3", "falcon", "bamba", "falcon_h1", "mpt", "modernbert", "luke"]
)
def test_the_plan_of_another_family_is_within_a_tenth_of_measured_tensors(
    name: str, tmp_path: Path
) -> None:
    case = Case(named(name), "fast", ("lora", "full"))
    assert case.planned() == pytest.approx(case.measured(tmp_path), rel=TOLERANCE), case


def test_packed_weights_of_another_family_take_what_is_measured(tmp_path: Path) -> None:
    case = Case(named("qwen3"), "fast", ("qlora",))
    assert case.planned() == pytest.approx(case.measured(tmp_path), rel=TOLERANCE), case


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_listed_class_but_five_can_be_planned(device: str) -> None:
    refused = {}
    for architecture in ARCHITECTURES:
        model = model_from_config(
            architecture.config().to_dict(), str(architecture), architecture.objective
        )
        try:
            plan_memory(
                model,
                Training(
                    qlora=Qlora(enabled=False, quantization=Quantization(load_in_4bit=False)),
                    memory_optimization=MemoryOptimization(gradient_checkpointing=False),
                ),
                micro_batch=2,
                length=64,
                placement=Placement(device, "bfloat16"),  # type: ignore[arg-type]
            )
        except CannotPlan as refusal:
            refused[str(architecture)] = str(refusal)
    assert refused.keys() <= {"big_bird", "nystromformer"}, refused
    assert len(CAUSAL) == 42


def test_a_class_without_checkpoints_is_refused_by_the_setting_that_asks_for_them() -> None:
    albert = named("albert")
    model = model_from_config(albert.config().to_dict(), "albert", "masked")
    with pytest.raises(UserError, match=r"AlbertForMaskedLM .*gradient_checkpointing to false"):
        plan_memory(model, Training(), micro_batch=1, length=32)


@pytest.mark.slow
def test_the_plan_stays_within_a_tenth_over_forty_random_cases_of_other_families(
    tmp_path: Path,
) -> None:
    off = []
    for number in range(40):
        case = Case(random.choice(TRAINED), random.random(), ("lora", "full", "qlora"))
        planned, measured = case.planned(), case.measured(tmp_path / str(number))
        if planned != pytest.approx(measured, rel=TOLERANCE):
            off.append((planned / measured, case))
    assert off == []
