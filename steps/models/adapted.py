"""An adapted model as a folder: what `finetune` hands on, and how it is loaded again.

The folder holds the adapter (or all weights, after full fine-tuning), the tokenizer, and
`base.json`: the description of the base, its quantisation and number format. It holds no
path of this machine; the base is found again by its description.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.config.sections import Hardware, Quantization, Training
from steps.errors import UserError, first_line
from steps.models.adapters import make_float32
from steps.models.attention import PER_DOCUMENT_SDPA
from steps.models.devices import pick_device, pick_dtype
from steps.models.loading import load_model
from steps.models.new_tokens import keep_bias_of_head, make_room
from steps.models.sources import Base, Objective, Task, resolve_description
from steps.models.tokenizer import check_tokenizer, load_tokenizer

BASE_FILE = "base.json"
# What it has to say for the model to be loaded.
DESCRIBED = frozenset({"base", "bits", "quantization", "dtype"})
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROBE_FILE = "probe.safetensors"

# Text whose logits the trainer writes down, and every later reader has to reproduce.
PROBE_TEXTS = (
    "Loss-of-function variants in BRCA1 and BRCA2 impair homologous recombination.",
    "The missense variant p.Val600Glu activates BRAF.",
)
MASKED_PROBE_TEXTS = ("Variants in the {mask} gene impair repair.", "The {mask} variant is rare.")


@dataclass
class AdaptedModel:
    """A model ready to be scored or asked.

    Attributes:
        model: `PeftModel` or `PreTrainedModel`; what this file loads is in evaluation mode.
        tokenizer: Its tokenizer.
        objective: "causal" or "masked".
        dtype: Number format of the computation, a `torch.dtype`.
        device: "cpu" or "cuda".
        description: What `base.json` states.
    """

    model: Any
    tokenizer: Any
    objective: Objective
    dtype: Any
    device: str
    description: dict[str, Any]

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return "instruction" if self.description.get("task") == "instruction" else self.objective

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute as in training: adapters are float32, their products in `dtype`."""
        import torch

        mixed = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device, self.dtype, enabled=mixed):
            yield

    # What versions that earlier commits registered call.
    computing = autocast


def describe(training: Training, base: Base, dtype: Any) -> dict[str, Any]:
    """The content of `base.json`."""
    return {
        "base": base.description(),
        "method": training.qlora.resolved_method,
        "bits": training.qlora.bits,
        "quantization": training.qlora.quantization.model_dump(),
        "dtype": str(dtype).removeprefix("torch."),
        "max_length": training.model.max_length,
        **({"task": "instruction"} if training.model.objective == "instruction" else {}),
    }


def load_base(
    base: Base,
    *,
    bits: int = 16,
    quantization: Quantization | None = None,
    hardware: Hardware | None = None,
    dtype_name: str | None = None,
    tokenizer: Any = None,
) -> AdaptedModel:
    """Load a base model without any adapter, in evaluation mode.

    Args:
        base: From `resolve_base`.
        bits: 4, 8 or 16 (not quantised).
        quantization: How 4-bit weights are stored; None: the defaults.
        hardware: Device and number format; None: the defaults.
        dtype_name: torch's name of the format; None: as `hardware` says.
        tokenizer: What it was adapted with; None: its own.

    Raises:
        UserError: The device, format, tokenizer or weights cannot be used.
    """
    import torch

    settings = hardware or Hardware()
    device = pick_device(settings.device)
    dtype = getattr(torch, dtype_name) if dtype_name else pick_dtype(settings, device)
    if tokenizer is None:
        tokenizer = load_tokenizer(base.folder)
        check_tokenizer(tokenizer, base)
    model = load_model(base, quantization or Quantization(), bits, dtype, device)
    model.eval()
    return AdaptedModel(
        model,
        tokenizer,
        base.objective,
        dtype,
        device,
        {"base": base.description()},
    )


def load_adapted(
    folder: Path, hardware: Hardware | None = None, *, bits: int | None = None
) -> AdaptedModel:
    """Load what `save_adapted` wrote, on whatever machine this is.

    Args:
        folder: Where it lies.
        hardware: Device; None: the default.
        bits: Of the base's weights; None: as many as it was trained with.

    Raises:
        UserError: The folder is not one of an adapted model, or its base is out of reach.
    """
    import torch

    description = read_description(folder)
    base = resolve_description(description["base"])
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter:
        base = Base(**{**base.description(), "folder": folder})
    device = pick_device((hardware or Hardware()).device)
    loaded = load_base(
        base,
        bits=bits or description["bits"],
        quantization=Quantization(**description["quantization"]),
        hardware=hardware,
        # All weights of a full fine-tuning are stored as they were trained.
        dtype_name=description["dtype"] if adapter else "float32",
        tokenizer=load_tokenizer(folder),
    )
    loaded.dtype = getattr(torch, description["dtype"])
    loaded.description = description
    if adapter:
        with torch.random.fork_rng(devices=[]):
            loaded.model = with_adapter(loaded.model, folder, device)
    loaded.model.eval()
    return loaded


def with_adapter(model: Any, folder: Path, device: str) -> Any:
    """Put the adapter of a folder onto its base.

    Raises:
        UserError: The adapter is pickled, damaged, or of another model.
    """
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"the adapter in {folder.name!r} has no {ADAPTER_WEIGHTS}, and pickled weights are not "
            "opened, as they can run code: train it again, or convert them with safetensors"
        )
    try:
        settings = PeftConfig.from_pretrained(str(folder))
        if settings.peft_type is None:
            raise ValueError("adapter_config.json names no peft_type")
        make_float32(model, getattr(settings, "modules_to_save", None) or ())
        rows = getattr(settings, "trainable_token_indices", None) or {}
        make_room(model, 1 + max((max(ids) for ids in rows.values()), default=-1))
        adapted = PeftModel.from_pretrained(
            model, str(folder), torch_device=device, is_trainable=False
        )
        if rows:
            keep_bias_of_head(adapted)
        return adapted
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"the adapter in {folder.name!r} cannot be put onto its base: {first_line(error)}; it "
            "is damaged or of another model, so train it again"
        ) from None


def read_description(folder: Path) -> dict[str, Any]:
    """Read `base.json`.

    Raises:
        UserError: There is none, or it does not say what it has to.
    """
    file = folder / BASE_FILE
    if not file.is_file():
        raise UserError(
            f"{folder.name!r} is no adapted model: it has no {BASE_FILE}; name a version or a run "
            "that the finetune step made"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{BASE_FILE} of {folder.name!r} cannot be read: {error}") from None
    missing = DESCRIBED - content.keys() if isinstance(content, dict) else DESCRIBED
    if missing:
        raise UserError(
            f"{BASE_FILE} of {folder.name!r} does not say {', '.join(sorted(missing))}: it was "
            "changed after finetune wrote it; name another version"
        )
    assert isinstance(content, dict)
    return content


def save_adapted(
    folder: Path,
    model: Any,
    tokenizer: Any,
    description: dict[str, Any],
    adapted: AdaptedModel,
    *,
    weights: dict[str, Any] | None = None,
    writes: bool = True,
) -> None:
    """Write an adapted model, with the logits that every later reader has to reproduce.

    Args:
        folder: Where to.
        model: The trained `PeftModel` or `PreTrainedModel`; where ZeRO-3 has shared it out, all
            ranks call this together.
        tokenizer: Its tokenizer.
        description: From `describe`.
        adapted: The same model, ready to be asked.
        weights: What to write; None: the model's own.
        writes: Whether this rank does.
    """
    from safetensors.torch import save_file

    logits = probe_logits(adapted)
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True, state_dict=weights)
    _without_local_paths(folder)
    tokenizer.save_pretrained(str(folder))
    (folder / BASE_FILE).write_text(json.dumps(description, indent=1), encoding="utf-8")
    save_file({"logits": logits}, folder / PROBE_FILE)


def _without_local_paths(folder: Path) -> None:
    """Take the base's local folder out of peft's files: `base.json` says what the base is."""
    settings = folder / "adapter_config.json"
    if settings.is_file():
        content = json.loads(settings.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = None
        settings.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    # peft writes a card that names the base by its local path.
    (folder / "README.md").unlink(missing_ok=True)


def probe_logits(adapted: AdaptedModel) -> Any:
    """Logits of the last position of each probe text (masked models: of the mask).

    Returns:
        A float32 CPU tensor `[texts, vocabulary]`.
    """
    import torch

    rows = []
    tokenizer = adapted.tokenizer
    inner = getattr(adapted.model, "get_base_model", lambda: adapted.model)()
    implementation = inner.config._attn_implementation
    if implementation == PER_DOCUMENT_SDPA:
        # The trainer's own attention is for packed rows; a reader loads the library's.
        inner.set_attn_implementation("sdpa")
    was_training = adapted.model.training
    adapted.model.eval()
    try:
        with adapted.autocast():
            for text in _probe_texts(adapted):
                encoded = tokenizer(text, return_tensors="pt").to(adapted.device)
                # Token types, which some tokenizers add, are in no row of the training.
                encoded.pop("token_type_ids", None)
                logits = adapted.model(**encoded).logits[0]
                position = -1
                if adapted.objective == "masked":
                    position = encoded.input_ids[0].tolist().index(tokenizer.mask_token_id)
                rows.append(logits[position].float().cpu())
    finally:
        if implementation == PER_DOCUMENT_SDPA:
            inner.set_attn_implementation(implementation)
        adapted.model.train(was_training)
    return torch.stack(rows).clone()


def _probe_texts(adapted: AdaptedModel) -> Sequence[str]:
    if adapted.objective == "causal":
        return PROBE_TEXTS
    return [text.format(mask=adapted.tokenizer.mask_token) for text in MASKED_PROBE_TEXTS]


def probe_difference(adapted: AdaptedModel, folder: Path) -> float:
    """Largest difference between this model's probe logits and those that the trainer had."""
    from safetensors.torch import load_file

    expected = load_file(folder / PROBE_FILE)["logits"]
    return float((probe_logits(adapted) - expected).abs().max())
