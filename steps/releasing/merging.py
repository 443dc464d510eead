"""A version as one model: its adapter merged into its base, in float32.

Merged into 16 or 4 bits, what the adapter has learned is rounded away in each product; in float32
it is added exactly, and rounded once, when the whole is written.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from steps.config.release_section import Release
from steps.config.sections import Quantization
from steps.models.adapted import with_adapter
from steps.models.loading import load_model
from steps.models.tokenizer import load_tokenizer
from steps.releasing.forms import Source

# What the converter reads and transformers does not write anew.
VOCABULARY_FILES = ("tokenizer.model",)
# Of the version's folder, what only this project reads.
OWN_FILES = ("probe.safetensors", "README.md")


def merge(source: Source, *, as_trained: bool) -> Any:
    """The whole model in float32 on the CPU, without adapter.

    Args:
        source: The version.
        as_trained: Begin with the base as the version computed with it, dequantised; else with
            the weights as they were published.

    Raises:
        UserError: Base or adapter cannot be loaded.
    """
    import torch

    quantised = as_trained and source.is_quantised
    model = load_model(
        source.weights,
        Quantization(**source.description["quantization"]),
        source.description["bits"] if quantised else 16,
        torch.float32,
        "cpu",
    )
    if quantised:
        model = model.dequantize().float()
    if source.is_adapter:
        model = with_adapter(model, source.folder, "cpu").merge_and_unload()
    model.config.use_cache = True
    # Embeddings and head are one weight in the base, and may have become two: a reader that ties
    # them again would lose the trained one.
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    if head is not None:
        model.config.tie_word_embeddings = head.weight is embeddings.weight
    return model.eval()


def write_model(folder: Path, model: Any, source: Source, dtype: Any) -> None:
    """Write a whole model with its tokenizer, chat template and generation settings.

    Args:
        folder: Where to; made.
        model: From `merge`; holds its weights as `dtype` afterwards.
        source: The version.
        dtype: Number format of the written weights (`torch.dtype`).
    """
    model.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder, safe_serialization=True)
    load_tokenizer(source.folder).save_pretrained(folder)
    for name in VOCABULARY_FILES:
        if (source.base.folder / name).is_file() and not source.adds_tokens:
            shutil.copy2(source.base.folder / name, folder / name)


def write_adapter(folder: Path, source: Source) -> None:
    """Write a peft adapter as its users load it: with the name of its base, and the tokenizer."""
    shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns(*OWN_FILES))
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = source.base.name
    settings["revision"] = source.base.revision
    settings["inference_mode"] = True
    file.write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


def release_dtype(source: Source, settings: Release) -> Any:
    """The 16-bit format of a merged model (`torch.dtype`).

    Readers compute in the format that they find. That of a version that was measured in bfloat16
    is bfloat16; one that was measured in float32 is float16, which rounds to an eighth of that:
    on SmolLM2-135M, bfloat16 alone cost 0.0027 bits per byte. What does not fit into the range of
    float16 is no number, and the gate refuses it.
    """
    import torch

    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    return torch.bfloat16 if source.description["dtype"] == "bfloat16" else torch.float16
