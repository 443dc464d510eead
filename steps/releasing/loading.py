"""Each form loaded as its users load it, and asked."""

from pathlib import Path
from typing import Any

from steps.config.sections import Hardware, Quantization
from steps.errors import UserError, first_line
from steps.models.devices import pick_device
from steps.releasing.forms import Form, Source
from steps.releasing.gguf import MODEL_FILE
from steps.releasing.llama_cpp import FormBroken, score_gguf
from steps.releasing.scores import FormScores, Questions, score


def ask(
    form: Form, folder: Path, source: Source, questions: Questions, hardware: Hardware
) -> FormScores:
    """Load a form from its files alone (an adapter: and its base), and ask it.

    Args:
        form: Which form.
        folder: Its files.
        source: The version; of an adapter, the base is taken from it, as users have one.
        questions: What to ask.
        hardware: Where transformers computes; llama.cpp computes on the CPU.

    Raises:
        FormBroken: It cannot be loaded, or fails.
    """
    if form.reader == "llama.cpp":
        return score_gguf(folder / MODEL_FILE, questions)
    from safetensors import SafetensorError

    try:
        model, tokenizer = _load(form, folder, source, pick_device(hardware.device))
        return score(model, tokenizer, source.base.objective, questions)
    except (
        SafetensorError,
        UserError,
        *(OSError, ValueError, KeyError, IndexError, RuntimeError),
    ) as error:
        # Whatever a damaged file leads to in transformers: users would see the same.
        raise FormBroken(f"{type(error).__name__}: {first_line(error)}") from None


def _load(form: Form, folder: Path, source: Source, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    auto = AutoModelForCausalLM if source.base.objective == "causal" else AutoModelForMaskedLM
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if form.name == "merged":
        model, report = auto.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if lost := [*report["missing_keys"], *report["mismatched_keys"]]:
            raise ValueError(f"{len(lost)} weights are missing, such as {lost[0]}")
        return model.to(device).eval(), tokenizer
    from peft import PeftModel

    base = _base(source, auto, device)
    return PeftModel.from_pretrained(base, str(folder), torch_device=device).eval(), tokenizer


def _base(source: Source, auto: Any, device: str) -> Any:
    """The base as the adapter's README says: in the bits and the number format of its training."""
    import torch

    from steps.models.loading import load_model

    if source.is_quantised:
        return load_model(
            source.base,
            Quantization(**source.description["quantization"]),
            source.description["bits"],
            getattr(torch, source.description["dtype"]),
            device,
        )
    return auto.from_pretrained(
        source.base.folder,
        dtype=getattr(torch, source.description["dtype"]),
        use_safetensors=True,
        trust_remote_code=False,
    ).to(device)
