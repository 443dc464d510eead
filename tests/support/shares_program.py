"""One rank that loads a base in shares, for tests that start several.

    torchrun --standalone --nproc-per-node 2 -m tests.support.shares_program SPECIFICATION.json

The file names model folders; each rank leaves `OUT-N.json` with what it found of each case.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from steps.config.sections import Hardware, Model, Qlora, Quantization, Training
from steps.distributed.collectives import process_group, raise_on_all_ranks
from steps.distributed.deepspeed import deepspeed_settings
from steps.distributed.ranks import Rank, rank_from_environment
from steps.errors import UserError
from steps.models.adapters import add_adapter
from steps.models.loading import load_model
from steps.models.sharded import copy_parameters, whole_in_forward
from steps.models.shares import load_base
from steps.models.sources import resolve_base
from tests.support.measured_memory import peak_bytes

ZERO_3 = Path("configs/deepspeed/zero3.json")


def training_of(case: dict[str, Any]) -> Training:
    """The configuration of a case."""
    four_bits = case["method"] == "qlora"
    quantization = Quantization(
        load_in_4bit=four_bits, bnb_4bit_use_double_quant=case.get("double_quant", True)
    )
    return Training(
        model=Model(name=case["folder"], max_length=64),
        qlora=Qlora(
            method=case["method"],
            r=4,
            modules_to_save=tuple(case.get("modules_to_save", ())),
            quantization=quantization,
        ),
        hardware=Hardware(bf16=False),
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as bytes: packed weights may read as NaN, which equals nothing."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def compared(case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A base in shares, beside the same one whole."""
    training, dtype = training_of(case), torch.float32
    base, qlora = resolve_base(training.model), training.qlora
    # What a first loading does once in a process is no part of any.
    load_base(base, training, dtype, "cpu", settings)
    made: list[Any] = []
    peak = peak_bytes(lambda: made.append(load_base(base, training, dtype, "cpu", settings)), ())
    loaded = made[0]
    model = loaded.model
    shares = [one for one in model.parameters() if hasattr(one, "ds_id")]
    kept = sorted(name for name, one in model.named_parameters() if not hasattr(one, "ds_id"))
    resident = sum(one.numel() for one in shares)
    states = [one.quant_state for one in shares if hasattr(one, "quant_state")]
    whole = load_model(base, qlora.quantization, qlora.bits, dtype, "cpu", storage=dtype)
    expected = dict(whole.named_parameters())
    found = copy_parameters(dict(model.named_parameters()))
    same = {
        name: found[name].dtype == one.dtype and torch.equal(bits(found[name]), bits(one))
        for name, one in expected.items()
    }
    ids = torch.arange(12)[None]
    logits = []
    for one in (whole, model):
        torch.manual_seed(0)
        adapted = add_adapter(one, qlora, base.objective)
        with torch.no_grad(), whole_in_forward(one):
            logits.append(adapted(input_ids=ids).logits)
    return {
        "whole": loaded.whole,
        "peak": peak,
        "share": sum(one.ds_tensor.numel() * one.ds_tensor.element_size() for one in shares),
        "kept_whole": kept,
        "resident": resident,
        "bytes": sum(one.numel() * one.element_size() for one in expected.values()),
        "largest": 4 * max(one.numel() for one in _unquantised(base)),
        "buffers": sum(one.numel() * one.element_size() for one in model.buffers()),
        "scales": sum(_bytes_of(state) for state in states),
        "different": [name for name, equal in same.items() if not equal],
        "names": expected.keys() == found.keys(),
        "logits": float((logits[0] - logits[1]).abs().max()),
    }


def _unquantised(base: Any) -> list[Any]:
    from steps.models.loading import skeleton

    return list(skeleton(base).parameters())


def _bytes_of(state: Any) -> int:
    nested = 0 if state.state2 is None else state.state2.absmax.nbytes
    return int(state.absmax.nbytes) + int(nested)


def main(specification: Path) -> None:
    """Load each case as the file says."""
    said = json.loads(specification.read_text())
    rank = rank_from_environment() or Rank()
    torch.set_num_threads(1)
    results = {}
    with process_group(rank, "cpu", 2, alone=True):
        for name, case in said["cases"].items():
            settings = deepspeed_settings(
                ZERO_3, training_of(case), torch.float32, ranks=rank.count, micro_batch=1
            )
            try:
                with raise_on_all_ranks():
                    results[name] = compared(case, settings)
            except UserError as error:
                results[name] = {"refused": str(error)}
    Path(f"{said['out']}-{rank.index}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
