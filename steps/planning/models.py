"""The model that is planned for: its configuration, of which its class is built without weights."""

import copy
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.config.sections import Model
from steps.errors import UserError, first_line
from steps.models.loading import without_weights
from steps.models.sources import Objective, objective_of_config, read_model_config


class CannotPlan(UserError):
    """The memory of this model cannot be worked out."""


@dataclass(frozen=True)
class ModelToPlan:
    """A model without weights.

    Attributes:
        name: What people call it.
        config_json: Its `config.json`.
        objective: What it is trained on.
    """

    name: str
    config_json: str
    objective: Objective

    @cached_property
    def config(self) -> Any:
        """Its configuration, as transformers reads it; callers change copies of it alone."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        content = json.loads(self.config_json)
        kind = content.pop("model_type", None)
        try:
            return AutoConfig.for_model(kind, **content)
        except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
            raise CannotPlan(
                f"{self.name}: transformers cannot read its config.json (model_type {kind!r}: "
                f"{first_line(error)}), so its memory cannot be planned: name another model"
            ) from None

    def with_more_tokens(self, number: int) -> "ModelToPlan":
        """The model with so many tokens more in its vocabulary."""
        if not number:
            return self
        content = self.config.to_dict()
        text = content.get("text_config", content)
        text["vocab_size"] = self.config.get_text_config().vocab_size + number
        return model_from_config(content, self.name, self.objective)

    @cached_property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once and all experts counted."""
        return sum(weight.numel() for weight in self._built.parameters())

    @cached_property
    def learns_positions(self) -> bool:
        """Whether it has an embedding of positions, which ends where it ends."""
        from torch import nn

        return any(
            isinstance(module, nn.Embedding) and re.search(r"position|wpe$", name) is not None
            for name, module in self._built.named_modules()
        )

    @cached_property
    def _built(self) -> Any:
        return plain_model(self, "bfloat16")

    @cached_property
    def max_positions(self) -> int | None:
        """Longest context that its positions are made for; None where nothing says so."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if isinstance(positions, int) and positions > 0 else None


_LLAMA_2: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_LLAMA_2_13B = {
    **_LLAMA_2,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_SMOLLM2_135M = {
    **_LLAMA_2,
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_MINILM = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 30522,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}

# Looked for in the model's name, so that the usual ones need neither hub nor files.
_KNOWN_CONFIGS = {
    r"llama-?2-7b": _LLAMA_2,
    r"llama-?2-13b": _LLAMA_2_13B,
    r"smollm2-135m": _SMOLLM2_135M,
    r"all-minilm-l6": _MINILM,
}


def model_from_config(
    content: dict[str, Any], name: str = "this model", objective: Objective | None = None
) -> ModelToPlan:
    """The model that a `config.json` describes.

    Args:
        content: The file's content, or `PreTrainedConfig.to_dict()`.
        name: The model's name, for messages and tables.
        objective: What it is trained on; None: what its class says.

    Raises:
        CannotPlan: Transformers knows no language model of this architecture.
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return ModelToPlan(name, text, objective or _objective(content, name))


def model_to_plan(model: Model) -> ModelToPlan:
    """Find the model that a configuration names, without its weights.

    In this order: a folder on this machine, a name known by heart (LLaMA-2 7B and 13B, the
    demo's models), the hub's `config.json` (a few kilobytes, or from its cache).

    Raises:
        UserError: It is in none of them.
    """
    objective: Objective | None = "causal" if model.objective == "instruction" else None
    if model.objective in ("causal", "masked"):
        objective = model.objective
    local = Path(model.name).expanduser()
    if (local / "config.json").is_file():
        content = read_model_config(local, model.name)
        return model_from_config(content, model.name, objective)
    for pattern, content in _KNOWN_CONFIGS.items():
        if re.search(pattern, f"{model.name} {model.source or ''}".lower()):
            return model_from_config(content, model.name, objective)
    if model.source not in (None, "hub"):
        raise UserError(
            f"model.name {model.name!r} is not a folder with a config.json, and its shape is not "
            "built into this project: give the folder as training.model.name"
        )
    from steps.models.sources import hub_snapshot

    content = read_model_config(hub_snapshot(model, ["config.json"]), model.name)
    return model_from_config(content, model.name, objective)


def _objective(content: dict[str, Any], name: str) -> Objective:
    found = objective_of_config(content)
    if found is None:
        raise CannotPlan(
            f"{name}: model_type {content.get('model_type')!r} is no language model that "
            "transformers can build, so its memory cannot be planned: name a causal or masked "
            "language model"
        )
    return found


def plain_model(model: ModelToPlan, dtype: str) -> Any:
    """The model on the meta device: classes and sizes.

    Args:
        model: What is planned.
        dtype: Number format of its weights, by torch's name.

    Raises:
        CannotPlan: Transformers cannot build it.
    """
    import torch

    try:
        return without_weights(copy.deepcopy(model.config), model.objective, getattr(torch, dtype))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CannotPlan(
            f"{model.name}: transformers cannot build its class from its config.json "
            f"({first_line(error)}), so its memory cannot be planned: name another model"
        ) from None
