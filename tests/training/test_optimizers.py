"""Which optimiser trains which parameters, at which rate."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Hyperparameters, Optimizer, Qlora, Quantization, Training
from steps.errors import UserError
from steps.training.muon import MuonWithAdamW
from steps.training.optimizers import (
    optimizer_name,
    parameter_groups,
    warm_up_from_the_first_step,
)
from tests.support.tiny_runs import build_trainer, papers, small_training


def training_of(folder: Path, optimizer: dict[str, Any], **changes: Any) -> Training:
    small = small_training(folder)
    rate = changes.pop("embedding_learning_rate", None)
    values = small.hyperparameters.model_copy(update={"embedding_learning_rate": rate})
    qlora = small.qlora.model_copy(update=changes)
    update = {"hyperparameters": values, "qlora": qlora, "optimizer": Optimizer(**optimizer)}
    return small.model_copy(update=update)


def rates(trainer: Any) -> dict[str, float]:
    """The learning rate of each trained parameter at the start of the schedule."""
    trainer.create_optimizer()
    names = {id(one): name for name, one in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    return {names[id(one)]: group["lr"] for group in groups for one in group["params"]}


def built(training: Training, folder: Path) -> Any:
    return build_trainer(training, folder, papers(3), [])


def test_lora_plus_gives_b_its_own_rate_and_everything_a_rate(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = training_of(tiny_llama_folder, {"loraplus_lr_ratio": 16})
    trainer = built(training, tmp_path)
    found = rates(trainer)
    assert found.keys() == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    main = training.hyperparameters.learning_rate
    for name, rate in found.items():
        assert rate == pytest.approx(16 * main if "lora_B" in name else main), name
    # What is reported as the learning rate is the configured one.
    assert trainer.optimizer.param_groups[0]["lr"] == main
    assert type(trainer.optimizer).__name__ == "AdamW"


def test_embeddings_and_head_take_their_own_rate(tiny_llama_folder: Path, tmp_path: Path) -> None:
    training = training_of(
        tiny_llama_folder,
        {},
        embedding_learning_rate=1e-5,
        modules_to_save=("embed_tokens", "lm_head"),
    )
    found = rates(built(training, tmp_path))
    own = {name for name, rate in found.items() if rate == 1e-5}
    assert len(own) == 2
    assert all("embed_tokens" in name or "lm_head" in name for name in own)


def test_a_rate_of_embeddings_that_nothing_trains_is_refused(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = training_of(tiny_llama_folder, {}, embedding_learning_rate=1e-5)
    with pytest.raises(UserError, match="neither embeddings nor head are trained"):
        built(training, tmp_path)


def test_without_any_of_it_the_optimiser_is_trainers_own(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    trainer = built(small_training(tiny_llama_folder), tmp_path)
    assert trainer.optimizer_cls_and_kwargs is None


def test_muon_takes_matrices_and_adamw_embeddings_head_and_vectors(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    qlora = Qlora(method="full", quantization=Quantization(load_in_4bit=False))
    training = training_of(tiny_llama_folder, {"type": "muon"}).model_copy(update={"qlora": qlora})
    trainer = built(training, tmp_path)
    trainer.create_optimizer()
    names = {id(one): name for name, one in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        for one in group["params"]:
            apart = any(part in names[id(one)] for part in ("embed_tokens", "lm_head", "norm"))
            assert group["muon"] != apart, names[id(one)]


def test_a_step_of_muon_is_orthogonal_and_as_long_as_adamws() -> None:
    torch.manual_seed(0)
    matrix, vector = torch.nn.Parameter(torch.randn(24, 96)), torch.nn.Parameter(torch.randn(7))
    other = torch.nn.Parameter(vector.detach().clone())
    optimizer = MuonWithAdamW(
        [{"params": [matrix], "muon": True}, {"params": [vector], "muon": False}], lr=0.1
    )
    reference = torch.optim.AdamW([other], lr=0.1, weight_decay=0.0)
    before = matrix.detach().clone()
    for _ in range(3):
        matrix.grad, vector.grad = torch.randn_like(matrix), torch.randn_like(vector)
        other.grad = vector.grad.clone()
        optimizer.step()
        reference.step()
        step, before = matrix.detach() - before, matrix.detach().clone()
        # Moonshot's length: 0.2 by the root of the longer side (arXiv:2502.16982).
        values = torch.linalg.svdvals(step / (0.1 * 0.2 * 96**0.5))
        assert 0.6 < values.min() <= values.max() < 1.3
    torch.testing.assert_close(vector, other)


def test_the_state_of_muon_goes_through_a_file(tmp_path: Path) -> None:
    def made() -> tuple[Any, list[torch.nn.Parameter]]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(8, 5)), torch.nn.Parameter(torch.randn(5))]
        groups = [{"params": [one], "muon": one.ndim == 2} for one in weights]
        return MuonWithAdamW(groups, lr=0.1), weights

    def step(optimizer: Any, weights: list[torch.nn.Parameter], seed: int) -> None:
        torch.manual_seed(seed)
        for one in weights:
            one.grad = torch.randn_like(one)
        optimizer.step()

    first, weights = made()
    step(first, weights, 1)
    torch.save((first.state_dict(), [one.detach() for one in weights]), tmp_path / "state")
    step(first, weights, 2)
    second, others = made()
    state, values = torch.load(tmp_path / "state")
    second.load_state_dict(state)
    with torch.no_grad():
        for one, value in zip(others, values, strict=True):
            one.copy_(value)
    step(second, others, 2)
    for one, other in zip(weights, others, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("galore_adamw", "projects the gradients of whole linear weights"),
        ("apollo_adamw_layerwise", "projects the gradients of whole linear weights"),
        ("lomo", "leaves nothing to accumulate"),
        ("adalomo", "leaves nothing to accumulate"),
        ("schedule_free_adamw", "in the package schedulefree"),
        ("adamw_torch_4bit", "in the package torchao"),
        ("muno", "nearest known: muon"),
    ],
)
def test_an_optimiser_that_is_not_to_be_had_is_refused_with_the_reason(
    name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        optimizer_name(name, "cpu")
    assert "\n" not in str(refused.value)


def test_every_optimiser_of_transformers_is_known_or_refused() -> None:
    from importlib.util import find_spec

    from transformers.training_args import OptimizerNames

    packages = (
        "galore_torch",
        "apollo_torch",
        "lomo_optim",
        "grokadamw",
        "schedulefree",
        "torchao",
    )
    assert not [name for name in packages if find_spec(name)]
    accepted = set()
    for member in OptimizerNames:
        try:
            accepted.add(optimizer_name(member.value, "cpu"))
        except UserError:
            continue
    bitsandbytes = {
        name for name in accepted if "bit" in name or "bnb" in name or "ademamix" in name
    }
    of_torch = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    assert accepted - bitsandbytes == of_torch


def test_groups_of_one_rate_and_decay_stand_together(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    training = small_training(tiny_llama_folder)
    values = Hyperparameters(**{**training.hyperparameters.model_dump(), "weight_decay": 0.1})
    training = training.model_copy(update={"hyperparameters": values})
    model = built(training, tmp_path).model
    names = [name for name, one in model.named_parameters() if one.requires_grad]
    decayed = names[: len(names) // 2]
    groups = parameter_groups(training, model, decayed)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [
        (0.1, len(decayed)),
        (0.0, len(names) - len(decayed)),
    ]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_the_first_step_of_a_warm_up_learns_and_the_rest_is_as_scheduled(kind: str) -> None:
    from transformers import get_scheduler

    def rates(begins_at_zero: bool, skip: int = 0) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(kind, optimizer, num_warmup_steps=3, num_training_steps=8)
        for _ in range(skip):
            optimizer.step()
            scheduler.step()
        if not begins_at_zero:
            warm_up_from_the_first_step(scheduler, 3)
        found = []
        for _ in range(8 - skip):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    plain, raised = rates(begins_at_zero=True), rates(begins_at_zero=False)
    assert plain[0] == 0.0
    assert raised[:3] == [0.25, 0.5, 0.75]
    assert raised[3:] == plain[3:]
    # A training that goes on takes the rates of one that was not interrupted.
    assert rates(begins_at_zero=False, skip=2) == raised[2:]


def test_a_schedule_without_a_function_of_the_step_stays_as_it_is() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    warm_up_from_the_first_step(scheduler, 3)
    assert optimizer.param_groups[0]["lr"] == 1.0
