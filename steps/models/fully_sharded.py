"""FSDP2: the weights of the layers, shared out over the ranks by torch's `fully_shard`.

    fully_shard_layers(model, "cuda", ranks)       # all ranks, once the model is whole on each
    write_sharded_optimizer(model, optimizer, folder)
    read_sharded_optimizer(model, optimizer, folder)    # on any number of ranks

Zhao et al. 2023 (arXiv:2304.11277) describe the method. Each decoder or encoder layer is one unit:
its weights come together for its forward and backward pass and are given up afterwards. What lies
outside the layers, the embeddings and the head (4% of LLaMA-2 7B), stays whole on each rank, so
that a loss or a score may use the head's weight by itself.

`fully_shard` is called here, and not by way of accelerate: that one knows FSDP on accelerators
alone (1.15), and would take the embeddings and the head apart as well.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import UserError
from steps.models.adapters import unwrapped

if TYPE_CHECKING:
    import torch

# As the files of a checkpoint that only resuming needs are called (`steps.checkpoints.format`).
OPTIMIZER_FOLDER = "optimizer_0"


def fully_shard_layers(model: Any, device: str, ranks: int) -> None:
    """Share out the weights of a model's layers; all ranks call it with the same weights.

    Args:
        model: A `PeftModel`, or the `PreTrainedModel` itself, on its device.
        device: "cpu" or "cuda".
        ranks: How many there are.

    Raises:
        UserError: The class of the model names no layers, or something outside them is trained.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    inner = unwrapped(model)
    kinds = set(getattr(inner, "_no_split_modules", None) or ())
    layers = [module for module in inner.modules() if type(module).__name__ in kinds]
    if not layers:
        raise UserError(
            f"distributed.backend is fsdp2, but {type(inner).__name__} does not say which modules "
            "are its layers: use training.distributed.backend=ddp"
        )
    within = {id(one) for layer in layers for one in layer.parameters()}
    outside = [name for name, one in model.named_parameters() if id(one) not in within]
    trained = [name for name in outside if model.get_parameter(name).requires_grad]
    if trained:
        raise UserError(
            f"distributed.backend is fsdp2, which shares out the layers alone, but {trained[0]} is "
            "trained too: leave it out of qlora.target_modules, or use "
            "training.distributed.backend=ddp"
        )
    mesh = init_device_mesh(device, (ranks,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # It holds no weights of its own: what it gives the layers is one order and one stream.
    left_whole = {model.get_parameter(name) for name in outside}
    fully_shard(inner.base_model, mesh=mesh, ignored_params=left_whole)


def whole(parameter: "torch.Tensor") -> "torch.Tensor":
    """A parameter, brought together where it is shared out; all ranks call it."""
    gather = getattr(parameter, "full_tensor", None)
    return parameter if gather is None else gather()


def set_shared(parameter: Any, weight: "torch.Tensor") -> None:
    """Give a shared-out parameter the values of a whole tensor that each rank has."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    placed = weight.to(device=mesh.device_type, dtype=parameter.dtype)
    parameter.copy_(distribute_tensor(placed, mesh, placements, src_data_rank=None))


def by_adapter_name(
    model: Any, trained: Mapping[str, "torch.Tensor"], saved: Mapping[str, "torch.Tensor"]
) -> "dict[str, torch.Tensor]":
    """Weights of an adapter file, by the names of the parameters that they belong to.

    Args:
        model: The `PeftModel`.
        trained: Its trained parameters, by name.
        saved: The file's content.
    """
    from peft import get_peft_model_state_dict

    # peft renames what it saves; which parameter a name stands for, the tensor itself tells.
    names = {id(one): name for name, one in trained.items()}
    renamed = get_peft_model_state_dict(model, state_dict=dict(trained))
    return {names[id(one)]: saved[name] for name, one in renamed.items() if id(one) in names}


def write_sharded_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Write the optimiser's moments; each rank its share, all of them together.

    By torch's distributed checkpoints, in safetensors: no file of it is a pickle.

    Raises:
        OSError: A rank cannot write.
    """
    checkpoint: Any = import_module("torch.distributed.checkpoint")
    target = folder / OPTIMIZER_FOLDER
    target.mkdir(exist_ok=True)
    writer = checkpoint.HuggingFaceStorageWriter(str(target), save_distributed=True)
    try:
        checkpoint.save(_moments(model, optimizer), storage_writer=writer)
    except checkpoint.CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise OSError(f"{target}: {reason}") from None


def read_sharded_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Restore what `write_sharded_optimizer` wrote, on whatever number of ranks."""
    checkpoint: Any = import_module("torch.distributed.checkpoint")
    reader = checkpoint.HuggingFaceStorageReader(str(folder / OPTIMIZER_FOLDER))
    # Into the tensors of the optimiser themselves; its rates are the schedule's.
    checkpoint.load(_moments(model, optimizer), storage_reader=reader)


def _moments(model: Any, optimizer: Any) -> dict[str, Any]:
    """The tensors of an optimiser's state, by the names of their parameters."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    if not optimizer.state:
        # torch makes them, with a step at a rate of 0.
        get_optimizer_state_dict(model, optimizer)
    return {
        f"state.{name}.{key}": moment
        for name, one in model.named_parameters()
        if one in optimizer.state
        for key, moment in optimizer.state[one].items()
    }
