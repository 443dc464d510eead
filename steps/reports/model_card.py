"""The model card of an adapter: `README.md` as the Hugging Face hub reads it.

It states what is known when the training ends: base, data, method, figures measured so far,
limits. A licence is not made up: the base's and the papers' own apply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.config.sections import Training
from steps.planning.plan import tokens_to_add

if TYPE_CHECKING:
    from steps.models.sources import Base

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ base.name }}, adapted to genomics papers with {{ method }} by ScientificLLM-Forge.

## Base

| property | value |
|---|---|
| name | {{ base.name }} |
| source | {{ base.source }} |
{% if base.revision %}| revision | {{ base.revision }} |
{% endif %}{% if base.sha256 %}| SHA-256 of the weights | {{ base.sha256 }} |
{% endif %}{% if base.config_sha256 %}| SHA-256 of its configuration | {{ base.config_sha256 }} |
{% endif %}| objective | {{ objective }} |
{% if base.note %}| note | {{ base.note }} |
{% endif %}
## Data

Dataset `{{ data.digest }}`, made by the preprocess run `{{ data.run_id }}`.

| split | papers | words |
|---|--:|--:|
{% for name, split in data.splits.items() %}| {{ name }} | {{ split.papers }} | {{ split.words }} |
{% endfor %}
The training split makes {{ data.tokens }} tokens a pass. {% if data.mixed %}Mixed in between, \
in rows of their own:

{% for line in data.mixed %}- {{ line }}
{% endfor %}
{% endif %}The test split was not learned from.

## Method

| setting | value |
|---|---|
{% for name, value in settings.items() %}| {{ name }} | {{ value }} |
{% endfor %}
## Figures

{% if figures %}| measure | value |
|---|--:|
{% for name, value in figures.items() %}| {{ name }} | {{ value }} |
{% endfor %}{% endif %}
{{ verdict }}

## Limits

- It {{ act }} in the manner of genomics papers. It is not tuned to follow instructions, and what
  it states about genes, variants or patients is not checked: no medical advice.
- What it learned is bounded by the papers above, their language and their dates; the base's own
  biases and gaps remain.
- The figures measure how well it fits held-out papers, not whether what it says is true.
{% if bits < 16 %}- It was trained on a base in {{ bits }}-bit weights, and is measured on it.
{% endif %}
## Licence

Unknown: none was stated. The licence of the base and those of the papers apply.

## Made with

{{ versions }}
"""


@dataclass(frozen=True)
class TrainingData:
    """What an adapter was trained on.

    Attributes:
        digest: Digest of the dataset.
        run_id: The preprocess run that made it.
        splits: `splits` of its manifest.
        tokens: Tokens of the training split.
        mixed: What was mixed in between its rows, in a sentence each.
    """

    digest: str
    run_id: str
    splits: Mapping[str, Mapping[str, Any]]
    tokens: int
    mixed: Sequence[str] = ()


def write_model_card(
    file: Path,
    training: Training,
    base: "Base",
    data: TrainingData,
    figures: Mapping[str, float],
    versions: Mapping[str, str],
) -> None:
    """Write the card.

    Args:
        file: `README.md` in the adapter's folder.
        training: The resolved configuration.
        base: The base model.
        data: What was trained on.
        figures: Measured so far, by the names that the tracking store has.
        versions: Of the libraries, by name.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from steps.models.sources import task_trained

    method, task = training.qlora.resolved_method, task_trained(training, base.objective)
    card_data = ModelCardData(
        # Only a hub's model has an id that a reader can follow.
        base_model=base.name if base.source == "hub" else None,
        library_name="peft" if training.qlora.adapts else "transformers",
        pipeline_tag="text-generation" if base.objective == "causal" else "fill-mask",
        tags=["genomics", "domain-adaptation", method],
    )
    validated = any(name.startswith("validation/") for name in figures)
    card = ModelCard.from_template(
        card_data,
        template_str=TEMPLATE,
        title=f"{base.name}: {method} on genomics papers",
        base=base,
        objective=_OBJECTIVES[task],
        method=method,
        bits=training.qlora.bits,
        act=_ACTS[task],
        data={
            "digest": data.digest,
            "run_id": data.run_id,
            "splits": data.splits,
            "tokens": f"{data.tokens:,}",
            "mixed": data.mixed,
        },
        settings=_settings(training),
        figures={name: f"{value:,.6g}" for name, value in figures.items()},
        verdict=(
            "Measured while training, on the validation split that chose the checkpoint. The "
            "evaluate step measures the test split."
            if validated
            else "Nothing was held out for validation; the evaluate step measures the test split."
        ),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    card.save(file)


# What each objective is called, and what a model of it does.
_OBJECTIVES = {
    "causal": "causal language modelling",
    "masked": "masked language modelling",
    "instruction": "instruction: answers, after the questions of a conversation",
}
_ACTS = {
    "causal": "continues texts",
    "masked": "fills gaps in texts",
    "instruction": "answers questions, by the chat template of its tokenizer",
}


def _settings(training: Training) -> dict[str, Any]:
    values, qlora = training.hyperparameters, training.qlora
    settings: dict[str, Any] = {"method": qlora.resolved_method}
    if qlora.adapts:
        targets = qlora.target_modules
        initialisation: str = qlora.initialization
        if qlora.halves_begin_alike:
            initialisation += (
                f" (half of the rank is trained, {qlora.r}; the other stays as it began)"
            )
        settings |= {
            "rank": qlora.adapter_rank,
            "alpha": f"{qlora.adapter_alpha:g}",
            "initialisation": initialisation,
            "dropout": qlora.lora_dropout,
            "target modules": targets if isinstance(targets, str) else ", ".join(targets),
            "bits of the frozen base": qlora.bits,
        }
    extra = {
        "learning rate of embeddings and head": values.embedding_learning_rate,
        "learning rate of B by that of A": training.optimizer.loraplus_lr_ratio,
        "new tokens": tokens_to_add(training) or None,
    }
    settings |= {key: value for key, value in extra.items() if value is not None}
    length = "max_steps" if values.max_steps > 0 else "num_epochs"
    return settings | {
        "tokens in a window": training.model.max_length,
        "learning rate": f"{values.learning_rate:g}",
        "schedule": training.scheduler.type,
        "optimiser": training.optimizer.type,
        "rows of a forward pass": values.batch_size,
        "forward passes of a step": values.gradient_accumulation_steps,
        length.replace("_", " "): f"{getattr(values, length):g}",
        "weight decay": values.weight_decay,
        "longest gradient": values.max_grad_norm,
        "seed": values.seed,
    }
