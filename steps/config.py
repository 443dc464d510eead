"""The typed configuration: one YAML file, overlays, dotted overrides, clear refusals.

    config = load_config("configs/training.yaml", "training.qlora.r=32")

OmegaConf reads and merges (it knows YAML 1.2 floats such as `2e-4`, lists and dotted
overrides); pydantic checks. Defaults stand here once; `configs/training.yaml` repeats
them with their reasons, and a test holds the two together.
"""

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steps.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0)]
Tier = Literal[
    "gold_standard",
    "high_quality",
    "medium_quality",
    "moderate_quality",
    "low_quality",
    "filtered_out",
]


SectionName = Literal[
    "title",
    "abstract",
    "introduction",
    "methods",
    "results",
    "discussion",
    "conclusion",
    "keywords",
    "other",
]


class Section(BaseModel):
    """What all sections share: unknown keys fail, values do not change later."""

    # A limit that is NaN would let everything through, since no comparison with it is true.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class Model(Section):
    """Which pre-trained model, from where, and how long its windows are."""

    name: str = "meta-llama/Llama-2-7b-hf"
    model_type: str | None = None
    source: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    revision: str | None = None
    objective: Literal["auto", "causal", "masked"] = "auto"
    max_length: Positive = 1024
    padding: bool | str | None = None
    truncation: bool | str | None = None

    @model_validator(mode="after")
    def _package_needs_digest(self) -> "Model":
        if self.source is not None and self.source.startswith("pypi:") and self.sha256 is None:
            raise ValueError(
                f"model.source {self.source!r} comes from a package index and needs model.sha256 "
                "(64 hex digits of the model file)"
            )
        return self


class Quantization(Section):
    """How the frozen base weights are stored."""

    load_in_4bit: bool = True
    load_in_8bit: bool = False
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    bnb_4bit_use_double_quant: bool = True
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"


class Qlora(Section):
    """What is trained: low-rank adapters, or everything."""

    enabled: bool = True
    method: Literal["auto", "lora", "qlora", "lora_8bit", "dora", "rslora", "full"] = "auto"
    r: Positive = 16
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    lora_dropout: Fraction = 0.05
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] = ()
    bias: Literal["none", "all", "lora_only"] = "none"
    task_type: str | None = None
    quantization: Quantization = Quantization()

    @model_validator(mode="after")
    def _possible(self) -> "Qlora":
        quantization = self.quantization
        if quantization.load_in_4bit and quantization.load_in_8bit:
            raise ValueError("qlora.quantization: load_in_4bit and load_in_8bit exclude each other")
        if self.method not in ("auto", "full") and not self.enabled:
            raise ValueError(
                f"qlora.method is {self.method!r} but qlora.enabled is false: "
                "set enabled to true, or method to full"
            )
        if self.method == "full" and (quantization.load_in_4bit or quantization.load_in_8bit):
            raise ValueError(
                "qlora.method full trains every weight, and quantised weights cannot be trained: "
                "set qlora.quantization.load_in_4bit and load_in_8bit to false"
            )
        return self

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained (False: every weight is)."""
        return self.enabled and self.method != "full"

    @property
    def bits(self) -> Literal[4, 8, 16]:
        """Bits a frozen weight is stored in; 16 means unquantised."""
        if not self.adapts or self.method == "lora":
            return 16
        if self.method == "qlora":
            return 4
        if self.method == "lora_8bit":
            return 8
        if self.quantization.load_in_4bit:
            return 4
        return 8 if self.quantization.load_in_8bit else 16

    @property
    def resolved_method(self) -> str:
        """The method's name with `auto` worked out."""
        if not self.adapts:
            return "full"
        if self.method != "auto":
            return self.method
        return {4: "qlora", 8: "lora_8bit", 16: "lora"}[self.bits]


class Masking(Section):
    """What a masked model has to restore in training."""

    probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    entity_probability: Annotated[float, Field(gt=0, lt=1)] = 0.3
    mask_share: Annotated[float, Field(ge=0, le=1)] = 0.8
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _shares_fit(self) -> "Masking":
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"masking.mask_share ({self.mask_share:g}) and random_share "
                f"({self.random_share:g}) are more than 1 together: the rest is left as it is"
            )
        return self


class Hyperparameters(Section):
    """The optimisation."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    batch_size: Positive | Literal["auto"] = 1
    gradient_accumulation_steps: Positive = 16
    num_epochs: Annotated[float, Field(gt=0)] = 3.0
    max_steps: int = -1
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.3
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42


class Optimizer(Section):
    """The optimiser and its moments."""

    type: str = "auto"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8


class Scheduler(Section):
    """The learning rate over time."""

    type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    num_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    warmup_ratio: Fraction = 0.03


class Preprocessing(Section):
    """The cleaning rules, each with its switch."""

    repair_unicode: bool = True
    decode_entities: bool = True
    strip_latex: bool = True
    strip_tags: bool = True
    expand_ligatures: bool = True
    remove_running_heads: bool = True
    remove_page_numbers: bool = True
    join_broken_words: bool = True
    remove_reference_list: bool = True
    remove_acknowledgements: bool = True
    remove_figure_debris: bool = True
    remove_publisher_notes: bool = True
    remove_links: bool = True
    remove_emails: bool = True
    remove_citations: bool = True
    normalize_scientific_notation: bool = True
    normalize_units: bool = True
    normalize_whitespace: bool = True
    handle_special_tokens: bool = True
    max_paper_length: Positive | None = None


class Filters(Section):
    """Which papers are let in."""

    min_score: float | None = None
    tiers: tuple[Tier, ...] | None = None
    min_words: Annotated[int, Field(ge=0)] = 20
    language: str | None = "en"


class Deduplication(Section):
    """Near-duplicate removal by MinHash."""

    enabled: bool = True
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    # A paper costs four bytes a permutation, in the worker as in the table of all papers.
    num_permutations: Annotated[int, Field(gt=0, le=4096)] = 128
    shingle_words: Positive = 3


class Split(Section):
    """The split by paper."""

    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.15
    salt: str = "scientificllm-forge"
    previous_manifest: str | None = None
    decontaminate_against: str | None = None


class Limits(Section):
    """What a single input may cost."""

    max_decompressed_bytes: Positive = 20_000_000_000
    max_record_bytes: Positive = 50_000_000


class ScientificData(Section):
    """From papers to a dataset."""

    data_file: str = "high_quality_papers.json"
    text_fields: tuple[Literal["title", "abstract", "full_text"], ...] = (
        "title",
        "abstract",
        "full_text",
    )
    sections: tuple[SectionName, ...] | None = None
    preprocessing: Preprocessing = Preprocessing()
    filters: Filters = Filters()
    deduplication: Deduplication = Deduplication()
    split: Split = Split()
    limits: Limits = Limits()
    num_workers: Annotated[int, Field(ge=0)] = 0


class Data(Section):
    """The older layout's own files: accepted, and reported as unused."""

    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    text_column: str | None = None
    label_column: str | None = None


class Logging(Section):
    """When to report, evaluate and save, counted in optimiser steps."""

    log_steps: Positive = 5
    eval_steps: Positive = 50
    save_steps: Positive = 50
    eval_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_minutes: Annotated[float, Field(gt=0)] | None = None
    save_strict: bool = False
    load_best_model_at_end: bool = True
    metric_for_best_model: str = "auto"
    greater_is_better: bool = False
    early_stopping_patience: Annotated[int, Field(ge=0)] = 0

    @field_validator("eval_strategy", "save_strategy", mode="before")
    @classmethod
    def _bare_no(cls, value: Any) -> Any:
        # YAML reads a bare `no` as false.
        return "no" if value is False else value


class Output(Section):
    """What a running step keeps on its own disk."""

    output_dir: str | None = None
    overwrite_output_dir: bool = False
    save_total_limit: Positive | None = 2


class MemoryOptimization(Section):
    """Trading time for memory."""

    gradient_checkpointing: bool = True
    offload_activations: bool = False
    max_memory_usage: Annotated[float, Field(gt=0)] | str | None = None
    gpu_memory_gb: Annotated[float, Field(gt=0)] = 16.0

    @model_validator(mode="after")
    def _offload_needs_checkpointing(self) -> "MemoryOptimization":
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError(
                "memory_optimization.offload_activations is true, but what it moves to host memory "
                "are the checkpoints of gradient_checkpointing, which is false: set it to true"
            )
        return self


class Hardware(Section):
    """Where the training runs, and in which number format."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    fp16: bool = False
    bf16: bool | Literal["auto"] = "auto"
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    dataloader_pin_memory: bool = True
    deterministic: bool = False

    @model_validator(mode="after")
    def _one_format(self) -> "Hardware":
        if self.fp16 and self.bf16 is True:
            raise ValueError("hardware.fp16 and hardware.bf16 exclude each other")
        return self


class Mlflow(Section):
    """The tracking store and the registry."""

    enabled: bool = True
    experiment_name: str = "scientificllm-forge"
    tracking_uri: str | None = None
    log_model: bool = True
    registered_model_name: str = "scientificllm-forge"
    spool_minutes: Annotated[float, Field(ge=0)] = 10.0
    system_metrics_seconds: Annotated[float, Field(ge=0)] = 10.0


class Distributed(Section):
    """Several processes."""

    enabled: bool = False
    backend: Literal["ddp", "deepspeed", "nccl", "gloo"] = "ddp"
    deepspeed_config: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    stop_seconds: Annotated[int, Field(ge=1)] = 300

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed trains, on however many processes."""
        return self.enabled and self.backend == "deepspeed"

    @model_validator(mode="after")
    def _file_is_named(self) -> "Distributed":
        if self.uses_deepspeed and self.deepspeed_config is None:
            raise ValueError(
                "distributed.backend is deepspeed, but distributed.deepspeed_config is null: name "
                "a file such as configs/deepspeed/zero2.json"
            )
        return self


class Generation(Section):
    """What the evaluated model is asked to write."""

    prompts: Annotated[int, Field(ge=0)] = 80
    max_new_tokens: Positive = 64


class Evaluation(Section):
    """How a model is measured on held-out papers."""

    context: Positive | None = None
    stride: Positive | None = None
    batch_tokens: Positive = 4096
    bootstrap_samples: Positive = 2000
    seed: int = 0
    general_texts: str | None = "data/general_texts_demo.json"
    generation: Generation = Generation()
    cloze_items: Annotated[int, Field(ge=0)] = 200
    score_bands: tuple[float, ...] = (60, 80)
    pseudo_likelihood_tokens: Annotated[int, Field(ge=0)] = 32
    allow_trained_papers: bool = False

    @field_validator("score_bands")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise(value)):
            raise ValueError(f"score_bands are {list(value)}: each has to be above the one before")
        return value


class Guard(Section):
    """A non-inferiority bound that a challenger has to respect."""

    metric: str
    margin: float
    direction: Literal["lower_is_better", "higher_is_better"] = "lower_is_better"
    reference: str | None = None
    optional: bool = False


DEFAULT_GUARDS = (
    Guard(metric="general", margin=0.03),
    Guard(
        metric="unknown_gene_share",
        margin=0.10,
        reference="reference_unknown_gene_share",
        optional=True,
    ),
    Guard(metric="memorised_share", margin=0.02),
)


class Comparison(Section):
    """The promotion rule."""

    metric: str = "auto"
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    min_gain: Annotated[float, Field(ge=0)] = 0.002
    min_papers: Positive = 6
    bootstrap_samples: Positive = 2000
    permutations: Positive = 20000
    seed: int = 0
    guards: tuple[Guard, ...] = DEFAULT_GUARDS


class Pruning(Section):
    """Which checkpoints `prune_checkpoints` keeps."""

    scope: Literal["run", "experiment"] = "run"
    keep_last: Annotated[int, Field(ge=0)] = 1
    keep_best: Annotated[int, Field(ge=0)] = 1
    metric: str = "validation/bits_per_byte"
    greater_is_better: bool = False
    every_steps: Positive | None = None
    younger_than_days: Annotated[float, Field(ge=0)] | None = None
    max_bytes: Positive | None = None
    slim: bool = False


class Training(Section):
    """The whole configuration (root key `training`)."""

    model: Model = Model()
    qlora: Qlora = Qlora()
    masking: Masking = Masking()
    hyperparameters: Hyperparameters = Hyperparameters()
    optimizer: Optimizer = Optimizer()
    scheduler: Scheduler = Scheduler()
    scientific_data: ScientificData = ScientificData()
    data: Data | None = None
    logging: Logging = Logging()
    output: Output = Output()
    memory_optimization: MemoryOptimization = MemoryOptimization()
    hardware: Hardware = Hardware()
    mlflow: Mlflow = Mlflow()
    distributed: Distributed = Distributed()
    evaluation: Evaluation = Evaluation()
    comparison: Comparison = Comparison()
    pruning: Pruning = Pruning()
    variants: dict[str, dict[str, Any]] = {"default": {}}

    @property
    def warmup_steps(self) -> int | None:
        """Warm-up in optimiser steps; None: `scheduler.warmup_ratio` decides."""
        if self.scheduler.num_warmup_steps is not None:
            return self.scheduler.num_warmup_steps
        return self.hyperparameters.warmup_steps


class ConfigFile(Section):
    """The file: the root key, and the file it extends."""

    training: Training = Training()


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration.

    Attributes:
        training: The typed values.
        path: The file that was asked for.
        overrides: The dotted overrides as given.
        notices: One line for each oddity that was accepted.
    """

    training: Training
    path: Path
    overrides: str = ""
    notices: tuple[str, ...] = field(default=())

    def variant_overrides(self, name: str) -> str:
        """Express a variant's overlay as dotted overrides for the `finetune` step."""
        overlay = " ".join(_dotted("training", self.training.variants[name]))
        return f"{self.overrides} {overlay}".strip()


def load_config(path: str | Path, overrides: str = "") -> LoadedConfig:
    """Read, merge and check a configuration.

    Args:
        path: YAML file with the root key `training`, and optionally `extends`
            (a file beside it). Relative paths are looked up in the working folder,
            then in the project.
        overrides: Space-separated dotted assignments, such as
            `"training.qlora.r=32 training.hyperparameters.learning_rate=1e-4"`.

    Raises:
        UserError: A missing or unreadable file, an unknown key, a wrong value.
    """
    file = find_file(path, "the configuration", "--config")
    layers = list(_layers(file))
    assignments = _parse_overrides(overrides)
    if assignments:
        layers.append(("overrides", assignments))
    merged = _merge([content for _, content in layers])
    training = _validate(merged, layers)
    for name, overlay in training.variants.items():
        where = f"training.variants.{name}"
        overlaid = _merge([merged, {"training": overlay}])
        _validate(overlaid, [*layers, (f"{file.name}, {where}", {"training": overlay})])
    if not training.mlflow.enabled:
        raise UserError(
            f"{file}: training.mlflow.enabled is false, but the tracking store is how the steps "
            "hand results on: remove the key, or point training.mlflow.tracking_uri at "
            "sqlite:///mlflow.db for a store without a server"
        )
    training, notices = _settle_oddities(training, merged, file)
    return LoadedConfig(training, file, overrides.strip(), tuple(notices))


def find_file(path: str | Path, what: str, option: str) -> Path:
    """Find a file by its path, from the working folder or else from the project.

    Raises:
        UserError: It is in neither; the message names the nearest file names.
    """
    given = Path(path).expanduser()
    for candidate in (given, PROJECT_ROOT / given):
        if candidate.is_file():
            return candidate
    folder = next((c for c in (given.parent, PROJECT_ROOT / given.parent) if c.is_dir()), None)
    names = sorted(entry.name for entry in folder.iterdir()) if folder else []
    near = difflib.get_close_matches(given.name, names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"{what} {str(path)!r} is not a file{hint} Give an existing one with {option}.")


def resolved_yaml(training: Training) -> str:
    """Write the resolved configuration as YAML that `load_config` reads back."""
    import yaml

    content = {"training": training.model_dump(mode="json")}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    schema = ConfigFile.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "a configuration file beside this one, whose values stand where this one "
        "says nothing",
    }
    schema["title"] = "ScientificLLM-Forge configuration"
    return schema


def flatten(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, leaf value) of nested mappings."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def _dotted(prefix: str, overlay: Mapping[str, Any]) -> Iterator[str]:
    for key, value in flatten(prefix, overlay):
        # JSON is YAML's flow style: compact separators keep an assignment free of blanks.
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        yield f"{key}={text}"


def _layers(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, content) of a file after those of the files it extends."""
    seen: list[Path] = []
    stack: list[tuple[str, dict[str, Any]]] = []
    while True:
        if file.resolve() in seen:
            raise UserError(f"{file}: extends itself by way of {seen[-1].name}: break the circle")
        seen.append(file.resolve())
        content = _read_yaml(file)
        parent = content.pop("extends", None)
        stack.append((str(file), content))
        if parent is None:
            break
        if not isinstance(parent, str) or not (file.parent / parent).is_file():
            raise UserError(f"{file}: extends {parent!r}, which is no file beside it")
        file = file.parent / parent
    yield from reversed(stack)


def _read_yaml(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        loaded = OmegaConf.load(file)
        content = OmegaConf.to_container(loaded, resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{file}: not a readable YAML file: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: expected the root key 'training', found a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items()}


def _parse_overrides(overrides: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # A value may hold blanks; the next assignment begins where a word starts with "training.".
    assignments = [part for part in re.split(r"\s+(?=training\.)", overrides.strip()) if part]
    for assignment in assignments:
        key, equals, _ = assignment.partition("=")
        if not equals or not key.startswith("training."):
            raise UserError(
                f"overrides: {assignment!r} is not of the form training.section.key=value "
                "(separate several with blanks)"
            )
    try:
        content = OmegaConf.to_container(OmegaConf.from_dotlist(assignments), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"overrides {overrides!r}: {' '.join(str(error).split())}") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _merge(contents: list[dict[str, Any]]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    # Variants are replaced as a whole: a demo's list of variants is not added to another's.
    merged: dict[str, Any] = {}
    for content in contents:
        training = content.get("training")
        if isinstance(training, dict) and isinstance(training.get("variants"), dict):
            base = merged.get("training")
            if isinstance(base, dict):
                base.pop("variants", None)
        result = OmegaConf.to_container(OmegaConf.merge(merged, content))
        assert isinstance(result, dict)
        merged = {str(key): value for key, value in result.items()}
    return merged


def _validate(merged: dict[str, Any], layers: list[tuple[str, dict[str, Any]]]) -> Training:
    # A key written with nothing behind it (`qlora:`) means the default, for sections as for values.
    training = merged.get("training")
    if isinstance(training, dict):
        merged = {**merged, "training": {k: v for k, v in training.items() if v is not None}}
    try:
        return ConfigFile.model_validate(merged).training
    except ValidationError as error:
        raise UserError(_explain(error, layers)) from None


def _explain(error: ValidationError, layers: list[tuple[str, dict[str, Any]]]) -> str:
    """Turn the first of pydantic's complaints into one line."""
    first = error.errors()[0]
    # Union members and literals appear in the location with names that are no keys of the file.
    keys = [str(part) for part in first["loc"]]
    path = ".".join(_existing_path(keys, layers))
    source = next(
        (name for name, content in reversed(layers) if _holds(content, path.split("."))),
        layers[-1][0],
    )
    rest = len(error.errors()) - 1
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: unknown key {path}{_nearest(keys)}{more}"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{source}: {message}{more}"
    value = json.dumps(first["input"], default=str)
    expected = first["msg"].removeprefix("Input should be ")
    return f"{source}: {path} is {value}, expected {expected}{more}"


def _existing_path(keys: list[str], layers: list[tuple[str, dict[str, Any]]]) -> list[str]:
    for length in range(len(keys), 0, -1):
        if any(_holds(content, keys[:length]) for _, content in layers):
            return keys[:length]
    return keys


def _holds(content: Any, keys: list[str]) -> bool:
    for key in keys:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
        elif isinstance(content, list) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        else:
            return False
    return True


def _nearest(keys: list[str]) -> str:
    known = [name for name, _ in _known_keys(ConfigFile, "")]
    wanted = ".".join(keys)
    siblings = [name for name in known if name.rpartition(".")[0] == wanted.rpartition(".")[0]]
    leaf_to_path = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(wanted, siblings, n=1, cutoff=0.6)
    if keys[-1] in leaf_to_path:
        near = [leaf_to_path[keys[-1]]]
    if not near:
        leaf = difflib.get_close_matches(keys[-1], leaf_to_path, n=1, cutoff=0.7)
        near = [leaf_to_path[leaf[0]]] if leaf else []
    if not near:
        near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.3)
    return f"; did you mean {near[0]}?" if near else ""


def _known_keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in section.model_fields.items():
        yield f"{prefix}{name}", info
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _known_keys(annotation, f"{prefix}{name}.")


def _settle_oddities(
    training: Training, merged: dict[str, Any], file: Path
) -> tuple[Training, list[str]]:
    """Give each oddity of older files its right value, and say so in one line each."""
    notices: list[str] = []
    given = merged.get("training") or {}
    notices.extend(_numbers_in_quotes(training, given))
    older = training.hyperparameters.warmup_steps
    ramp = training.scheduler.num_warmup_steps
    if older is not None and ramp is not None and older != ramp:
        notices.append(
            f"hyperparameters.warmup_steps is {older} and scheduler.num_warmup_steps is {ramp}: "
            f"{ramp} is used, the scheduler's own; remove the other"
        )
    if training.data is not None and any(training.data.model_dump().values()):
        notices.append(
            "data.* (the older layout's own files) is not used: papers come from "
            f"scientific_data.data_file ({training.scientific_data.data_file})"
        )
    if training.model.padding is not None or training.model.truncation is not None:
        notices.append(
            "model.padding and model.truncation are not used: papers are packed, and long ones "
            "become windows of model.max_length, so that nothing is padded or cut off"
        )
    if training.model.model_type is not None:
        notices.append(
            f"model.model_type ({training.model.model_type}) is not used: the objective comes from "
            "the model's own configuration, or from model.objective"
        )
    if training.memory_optimization.max_memory_usage is not None:
        notices.append(
            "memory_optimization.max_memory_usage is not used: memory_optimization.gpu_memory_gb "
            f"({training.memory_optimization.gpu_memory_gb:g}) is the budget"
        )
    if training.output.overwrite_output_dir:
        notices.append(
            "output.overwrite_output_dir is not used: each run writes into a folder of its own"
        )
    uri = training.mlflow.tracking_uri
    if uri is not None and (uri.startswith("file:") or _is_plain_path(uri)):
        settled = "sqlite:///mlflow.db"
        notices.append(
            f"mlflow.tracking_uri {uri!r} is a file store, which MLflow 3.17 refuses: "
            f"{settled} is used (artifacts in ./mlruns, as before)"
        )
        mlflow_section = training.mlflow.model_copy(update={"tracking_uri": settled})
        training = training.model_copy(update={"mlflow": mlflow_section})
    notices.extend(_deepspeed_oddities(training, file))
    return training, notices


def _is_plain_path(uri: str) -> bool:
    return "://" not in uri and uri not in ("databricks", "uc")


def _numbers_in_quotes(training: Training, given: Mapping[str, Any]) -> Iterator[str]:
    checked = dict(flatten("training", training.model_dump()))
    for key, value in flatten("training", given):
        number = checked.get(key)
        if isinstance(value, str) and isinstance(number, (int, float)):
            yield f"{key.removeprefix('training.')} is the text {value!r}: read as {number:g}"


def deepspeed_file(training: Training, file: Path) -> Path:
    """The DeepSpeed file that a configuration names, beside it, in the working folder or here.

    Args:
        training: A configuration whose `distributed.deepspeed_config` is set.
        file: Where it was read from.

    Raises:
        UserError: There is no such file.
    """
    path = training.distributed.deepspeed_config
    assert path is not None
    beside = file.parent / path
    if beside.is_file():
        return beside
    return find_file(path, "the DeepSpeed file", "distributed.deepspeed_config")


def _deepspeed_oddities(training: Training, file: Path) -> Iterator[str]:
    """Name what a DeepSpeed file that is not in use sets that the configuration decides."""
    if training.distributed.deepspeed_config is None:
        return
    found = deepspeed_file(training, file)
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{found}: not JSON: {error}") from None
    if training.distributed.uses_deepspeed:
        # Checked against the settled values when the training begins.
        return
    state = " (distributed.enabled is false: not in use)"
    if training.distributed.enabled:
        state = f" (distributed.backend is {training.distributed.backend}: not in use)"
    decided_by = {
        "fp16": "hardware.fp16 and hardware.bf16",
        "bf16": "hardware.fp16 and hardware.bf16",
        "optimizer": "training.optimizer",
        "scheduler": "training.scheduler",
        "train_batch_size": "hyperparameters.batch_size and gradient_accumulation_steps",
        "train_micro_batch_size_per_gpu": "hyperparameters.batch_size",
        "gradient_accumulation_steps": "hyperparameters.gradient_accumulation_steps",
        "gradient_clipping": "hyperparameters.max_grad_norm",
    }
    for key, owner in decided_by.items():
        value = content.get(key)
        if value is None or value == "auto" or value == {"enabled": "auto"}:
            continue
        if isinstance(value, dict) and value.get("enabled") is False:
            continue
        shown = value.get("type", "enabled") if isinstance(value, dict) else value
        yield f"{found.name} sets {key} ({shown}): {owner} decides{state}"
    zero = content.get("zero_optimization", {})
    if isinstance(zero, dict) and zero.get("stage") and "offload_optimizer" in zero:
        yield f"{found.name}: ZeRO stage {zero['stage']} with optimizer offload{state}"
