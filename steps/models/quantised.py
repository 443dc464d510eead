"""Bases whose files hold quantised weights, as `quantization_config` of their config.json says.

What bitsandbytes stored in 4 or 8 bits carries adapters as it is. Other formats have no backward
pass here, or were made for inference alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steps.config.sections import Training
from steps.errors import UserError
from steps.models.sources import Base, read_model_config

INSTEAD = "name the unquantised model that it was made from (training.model.name)"


@dataclass(frozen=True)
class StoredQuantisation:
    """How bitsandbytes has stored a base.

    Attributes:
        bits: 4 or 8.
        quant_type: "nf4" or "fp4", of 4-bit weights.
        double_quant: Whether their scales are quantised too.
        storage: Name of the number type that the packed 4-bit weights lie in.
    """

    bits: Literal[4, 8]
    quant_type: str
    double_quant: bool
    storage: str


def stored_quantisation(folder: Path, name: str) -> StoredQuantisation | None:
    """How the weights of a model folder are stored; None: unquantised.

    Args:
        folder: With `config.json`.
        name: What to call the model.

    Raises:
        UserError: They are in a format that cannot be trained on here.
    """
    stated = read_model_config(folder, name).get("quantization_config")
    if not stated:
        return None
    settings = stated if isinstance(stated, Mapping) else {"quant_method": stated}
    # Older files of bitsandbytes name no method.
    for bits in (4, 8):
        if settings.get(f"load_in_{bits}bit"):
            return StoredQuantisation(
                bits=4 if bits == 4 else 8,
                quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
                double_quant=bool(settings.get("bnb_4bit_use_double_quant", False)),
                storage=str(settings.get("bnb_4bit_quant_storage") or "uint8"),
            )
    method = settings.get("quant_method", "unknown")
    raise UserError(
        f"model {name} is quantised already, by {json.dumps(method)} (quantization_config in its "
        f"config.json), and only what bitsandbytes stored in 4 or 8 bits is trained on: {INSTEAD}; "
        "qlora.method=qlora quantises it when it is loaded"
    )


def check_stored(base: Base, training: Training) -> None:
    """Refuse a configuration that says something else than a quantised base's own files.

    Raises:
        UserError: The method, the bits or their type are others, or DeepSpeed cannot share the
            stored weights out.
    """
    stored = stored_quantisation(base.folder, base.name)
    if stored is None:
        return
    qlora, quantization = training.qlora, training.qlora.quantization
    is_so = f"model {base.name} is stored in {stored.bits} bits (bitsandbytes)"
    method = "qlora" if stored.bits == 4 else "lora_8bit"
    if not qlora.adapts:
        raise UserError(
            f"{is_so}, and method full trains every weight, which quantised ones do not allow: set "
            f"training.qlora.enabled=true and training.qlora.method={method}, or {INSTEAD}"
        )
    if qlora.bits != stored.bits:
        raise UserError(
            f"{is_so}, and qlora.method {qlora.resolved_method} asks for {qlora.bits}: set "
            f"{_settings_for(stored.bits, qlora.method)}, or {INSTEAD}"
        )
    if qlora.initialization == "loftq":
        raise UserError(
            f"{is_so}, and qlora.initialization loftq makes up for what that lost, which takes the "
            f"weights as they were: set training.qlora.initialization=default, or {INSTEAD}"
        )
    if stored.bits == 8:
        return
    for key, is_stored in (
        ("bnb_4bit_quant_type", stored.quant_type),
        ("bnb_4bit_use_double_quant", stored.double_quant),
    ):
        asked, name = getattr(quantization, key), f"qlora.quantization.{key}"
        if asked != is_stored:
            raise UserError(
                f"{is_so} with {key} {json.dumps(is_stored)}, and {name} is {json.dumps(asked)}: "
                f"set training.{name}={str(is_stored).lower()}"
            )
    if training.distributed.uses_deepspeed and stored.storage == "uint8":
        raise UserError(
            f"{is_so} in whole bytes, which DeepSpeed cannot share out: use "
            f"training.distributed.backend=ddp, or {INSTEAD}"
        )


def _settings_for(bits: int, method: str) -> str:
    """The overrides under which a configuration's own method takes stored weights."""
    wanted = {4: "load_in_4bit=true", 8: "load_in_8bit=true"}[bits]
    other = {4: "load_in_8bit=false", 8: "load_in_4bit=false"}[bits]
    if method in ("dora", "rslora", "auto"):
        quantization = "training.qlora.quantization"
        return f"{quantization}.{other} {quantization}.{wanted}"
    return f"training.qlora.method={'qlora' if bits == 4 else 'lora_8bit'}"
