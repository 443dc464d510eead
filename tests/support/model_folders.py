"""Copies of model folders that are not quite what they were."""

import json
import shutil
from pathlib import Path
from typing import Any


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder whose config.json says something else (None: says nothing)."""
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    (target / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def quantised(
    folder: Path, target: Path, bits: int, dtype: str = "bfloat16", **settings: Any
) -> Path:
    """A copy of a causal model's folder whose weights bitsandbytes has stored in 4 or 8 bits.

    Args:
        folder: Of the unquantised model.
        target: Where the copy goes.
        bits: 4 or 8.
        dtype: torch's name of the number format that the weights had before.
        **settings: Of `BitsAndBytesConfig`; by default as the configuration's own defaults are.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    usual: dict[str, Any] = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float16,
    }
    how = BitsAndBytesConfig(
        load_in_4bit=bits == 4, load_in_8bit=bits == 8, **{**usual, **settings}
    )
    shutil.copytree(folder, target)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, dtype=getattr(torch, dtype), device_map={"": "cpu"}
    )
    model.save_pretrained(target)
    return target
