"""Which forms a version can be handed on in, and what their making takes on a disk.

    source = read_source(adapter_folder)
    forms = choose_forms(("merged", "gguf:q8_0"), source, settings)
    bytes_needed(forms, source)

Everything here is known before a weight is loaded, so that a form that cannot be had is said at
once, in one line.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from steps.config.release_section import MaxLoss, Release
from steps.errors import UserError
from steps.models.adapted import read_description
from steps.models.loading import skeleton
from steps.models.quantised import stored_quantisation
from steps.models.sources import Base, resolve_description
from steps.releasing.converter import why_not_converted

Reader = Literal["transformers", "llama.cpp"]

AUTO = ("adapter", "merged")
MASKED_FORMS = ("adapter", "merged")
ONNX_IS_MISSING = (
    "no kept exporter works beside transformers 5 (optimum-onnx 0.1.0 asks for transformers "
    "below 4.58)"
)


@dataclass(frozen=True)
class Form:
    """A form of a model.

    Attributes:
        name: As in `release.formats`.
        folder: Of its files, below `release/`.
        reader: The library that its users load it with, and that measures it.
        bytes_per_weight: What a weight takes in it, for the plan of the disk.
        four_bit: Whether it may differ by as much as 4-bit weights do.
    """

    name: str
    folder: str
    reader: Reader
    bytes_per_weight: float
    four_bit: bool = False

    def max_loss(self, limits: MaxLoss, objective: str) -> float:
        """By how much it may differ, in the unit of the objective's score."""
        if objective == "masked":
            return limits.masked
        return limits.four_bit if self.four_bit else limits.near_lossless


FORMS = {
    form.name: form
    for form in (
        Form("adapter", "adapter", "transformers", 0.0),
        Form("merged", "merged", "transformers", 2.0),
        Form("gguf:f16", "gguf-f16", "llama.cpp", 2.0),
        Form("gguf:q8_0", "gguf-q8_0", "llama.cpp", 1.07),
        # Small layers, whose rows are no multiple of 256, stay in 5 to 8 bits.
        Form("gguf:q4_k_m", "gguf-q4_k_m", "llama.cpp", 0.8, four_bit=True),
    )
}


@dataclass(frozen=True)
class Source:
    """The version that forms are made of.

    Attributes:
        folder: Its adapter (or weights, after full fine-tuning) on this machine.
        description: The content of its `base.json`.
        base: The base, found on this machine.
    """

    folder: Path
    description: dict[str, Any]
    base: Base

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter on a base; else all weights were trained."""
        return (self.folder / "adapter_config.json").is_file()

    @property
    def weights(self) -> Base:
        """Where its frozen weights are: the base, or the folder itself."""
        return self.base if self.is_adapter else replace(self.base, folder=self.folder)

    @property
    def is_quantised(self) -> bool:
        """Whether it computes with a base of 4 or 8 bits."""
        return bool(self.description["bits"] != 16)

    @property
    def is_stored_quantised(self) -> bool:
        """Whether the base exists in 4 or 8 bits alone."""
        return stored_quantisation(self.weights.folder, self.base.name) is not None

    @property
    def adds_tokens(self) -> bool:
        """Whether it has rows of embeddings that its base as published has not."""
        return self.is_adapter and bool(self._adapter_settings.get("trainable_token_indices"))

    @cached_property
    def parameters(self) -> int:
        """Number of weights of the whole model."""
        return sum(parameter.numel() for parameter in skeleton(self.weights).parameters())

    @property
    def _adapter_settings(self) -> dict[str, Any]:
        content = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content


def read_source(folder: Path) -> Source:
    """Read a version's folder and find its base.

    Raises:
        UserError: It is no adapted model, or its base is gone.
    """
    description = read_description(folder)
    return Source(folder, description, resolve_description(description["base"]))


def choose_forms(
    wanted: Sequence[str] | Literal["auto"], source: Source, settings: Release
) -> list[Form]:
    """The forms that are wanted, in the order of the table.

    Args:
        wanted: Their names; "auto": those of `AUTO` that the version can have.
        source: The version.
        settings: The section `release`.

    Raises:
        UserError: One is unknown, or this version cannot have it; the message says why.
    """
    if wanted == "auto":
        found = [FORMS[name] for name in AUTO if not why_not(name, source, settings)]
        if not found:
            raise UserError(
                f"{source.base.name}: {why_not('merged', source, settings)}, and "
                f"{why_not('adapter', source, settings)}"
            )
        return found
    for name in wanted:
        if name not in FORMS and name != "onnx":
            raise UserError(
                f"formats names {name!r}, which is none: expected some of {', '.join(FORMS)}"
            )
        if reason := why_not(name, source, settings):
            raise UserError(f"form {name} is not offered for this version: {reason}")
    if not wanted:
        raise UserError(f"formats is empty: name some of {', '.join(FORMS)}")
    return [form for name, form in FORMS.items() if name in wanted]


def why_not(name: str, source: Source, settings: Release) -> str:
    """Why a version cannot have a form; "" where it can."""
    if name == "onnx":
        return ONNX_IS_MISSING
    if source.base.objective == "masked" and name not in MASKED_FORMS:
        return f"llama.cpp fills no masks; a masked model has {' and '.join(MASKED_FORMS)}"
    if name == "adapter":
        if not source.is_adapter:
            return "all of its weights were trained; merged is the model"
        if source.adds_tokens:
            return (
                "it adds tokens, for which its base as published has no rows; merged has them all"
            )
        return ""
    if source.is_stored_quantised and settings.merge_onto == "full_precision":
        return (
            f"{source.base.name} is stored in 4 or 8 bits alone, and nothing is merged into those; "
            "set training.release.merge_onto=as_trained to merge onto the dequantised weights, or "
            "release the adapter"
        )
    if FORMS[name].reader == "llama.cpp":
        return why_not_converted(source.weights)
    return ""


def bytes_needed(forms: Sequence[Form], source: Source) -> int:
    """Bytes that making the forms takes at most: they, what they are made of, and a stored copy."""
    own = sum(file.stat().st_size for file in source.folder.rglob("*") if file.is_file())
    sizes = [own + form.bytes_per_weight * source.parameters for form in forms]
    between = 0.0
    if any(form.reader == "llama.cpp" for form in forms):
        # Float32 weights, and the 16-bit file that all others are quantised from.
        between = 6.0 * source.parameters
    return int(between + 2 * sum(sizes))


def check_room(forms: Sequence[Form], source: Source, places: Sequence[Path]) -> None:
    """Refuse to begin where a disk cannot hold what will be written.

    Args:
        forms: What will be made.
        source: The version.
        places: Folders that are written to.

    Raises:
        UserError: One has too little room.
    """
    import shutil

    needed = bytes_needed(forms, source)
    for place in places:
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(
                f"releasing {', '.join(form.name for form in forms)} takes up to "
                f"{needed / 1e9:,.1f} GB, and the disk of {str(place)!r} has {free / 1e9:,.1f} GB "
                "free: make room, set TMPDIR to a larger disk, or name fewer formats"
            )
