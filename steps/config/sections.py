"""The sections of the configuration as pydantic models: types, defaults and checks.

Defaults stand here once; `configs/training.yaml` repeats
them with their reasons, and a test holds the two together.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from steps.config.base import Fraction, Positive, Section
from steps.config.combinations import check_optimisation
from steps.config.generate_section import Generate
from steps.config.measurement_sections import Comparison, Evaluation
from steps.config.paper_sections import ScientificData
from steps.config.release_section import Release
from steps.config.sweep_section import Sweep
from steps.config.tokenizer_section import Tokenizer


class Model(Section):
    """Which pre-trained model, from where, and how long its windows are."""

    name: str = "meta-llama/Llama-2-7b-hf"
    model_type: str | None = None
    source: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    revision: str | None = None
    objective: Literal["auto", "causal", "masked", "instruction"] = "auto"
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
        if self.revision is not None and self.source not in (None, "hub"):
            raise ValueError(
                f"model.revision is {self.revision!r}, which only the hub has, and model.source is "
                f"{self.source!r}: remove the one or the other"
            )
        if self.sha256 is not None and self.source == "hub":
            raise ValueError(
                "model.sha256 is of a package or a folder: pin a hub model by model.revision"
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
    initialization: Literal["default", "pissa", "olora", "eva", "loftq"] = "default"
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

    @model_validator(mode="after")
    def _initialization_fits(self) -> "Qlora":
        name = self.initialization
        begins = f"qlora.initialization is {name!r}"
        if name == "default":
            return self
        if not self.adapts:
            raise ValueError(
                f"{begins}, which is how adapters begin, and full fine-tuning has none: set it to "
                "default"
            )
        if self.resolved_method == "dora" and name != "eva":
            raise ValueError(
                f"{begins} with method dora, whose magnitudes are those of the weights without an "
                "adapter: set it to default or eva, or method to lora, qlora or rslora"
            )
        if self.halves_begin_alike and self.bits != 16:
            raise ValueError(
                f"{begins}, which takes unquantised weights apart, and the base is stored in "
                f"{self.bits} bits: set qlora.method to lora, or qlora.initialization to loftq, "
                "eva or default"
            )
        if name == "loftq" and self.bits != 4:
            raise ValueError(
                f"{begins}, which makes up for what 4 bits lose, and the base is stored in "
                f"{self.bits} bits: set qlora.method to qlora, or qlora.initialization to default"
            )
        return self

    @property
    def halves_begin_alike(self) -> bool:
        """Whether an adapter has twice the rank, and one half of it stays as it began."""
        return self.initialization in ("pissa", "olora")

    @property
    def adapter_rank(self) -> int:
        """The rank of the adapter as it is trained and saved."""
        return 2 * self.r if self.halves_begin_alike else self.r

    @property
    def adapter_alpha(self) -> float:
        """`lora_alpha` of that adapter, which leaves the factor on its product as configured."""
        times = self.adapter_rank / self.r
        return self.lora_alpha * (times**0.5 if self.resolved_method == "rslora" else times)

    @property
    def as_saved(self) -> "Qlora":
        """The plain adapter that is saved, whichever way it began."""
        plain = {"initialization": "default", "r": self.adapter_rank}
        return self.model_copy(update={**plain, "lora_alpha": self.adapter_alpha})

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


class Instructions(Section):
    """Questions and answers, for `model.objective: instruction`."""

    data_file: str | None = None
    chat_template: str | None = None


class Merge(Section):
    """Putting the adapter of a base model onto its instruct model."""

    instruct_residual: str | None = None
    source: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    revision: str | None = None


# Below this much of the tokens, papers would be what is mixed in.
LARGEST_MIXED_SHARE = 0.9
MixedShare = Annotated[float, Field(ge=0, le=LARGEST_MIXED_SHARE)]


class Replay(Section):
    """Texts of another domain, mixed into the training rows."""

    source: str | None = None
    share: MixedShare = 0.0

    @model_validator(mode="after")
    def _has_a_source(self) -> "Replay":
        if self.share and self.source is None:
            raise ValueError(
                f"replay.share is {self.share:g}, but replay.source is null: name a file, folder "
                "or pattern of texts, or set the share to 0"
            )
        return self


StudyKind = Literal[
    "gene_cloze",
    "variant_cloze",
    "title",
    "section_order",
    "gene_finding",
    "variant_finding",
    "abbreviation",
    "keywords",
    "number",
]
STUDY_KINDS: tuple[StudyKind, ...] = get_args(StudyKind)


class StudyTexts(Section):
    """Exercises made of the training papers, mixed into the training rows."""

    share: MixedShare = 0.0
    kinds: tuple[StudyKind, ...] = STUDY_KINDS

    @model_validator(mode="after")
    def _has_kinds(self) -> "StudyTexts":
        if self.share and not self.kinds:
            raise ValueError(
                f"study_texts.share is {self.share:g}, but study_texts.kinds is empty: name some "
                f"of {', '.join(STUDY_KINDS)}, or set the share to 0"
            )
        return self


class Hyperparameters(Section):
    """The optimisation."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    embedding_learning_rate: Annotated[float, Field(gt=0)] | None = None
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
    loraplus_lr_ratio: Annotated[float, Field(ge=1)] | None = None


class Scheduler(Section):
    """The learning rate over time."""

    type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    num_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    warmup_ratio: Fraction = 0.03


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
    backend: Literal["ddp", "deepspeed", "fsdp2", "nccl", "gloo"] = "ddp"
    deepspeed_config: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    stop_seconds: Annotated[int, Field(ge=1)] = 300

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed trains, on however many processes."""
        return self.enabled and self.backend == "deepspeed"

    @property
    def uses_fsdp2(self) -> bool:
        """Whether FSDP2 trains, on however many processes."""
        return self.enabled and self.backend == "fsdp2"

    @property
    def shares_out(self) -> bool:
        """Whether what one process holds alone by DDP is shared out over all of them."""
        return self.uses_deepspeed or self.uses_fsdp2

    @model_validator(mode="after")
    def _file_is_named(self) -> "Distributed":
        if self.uses_deepspeed and self.deepspeed_config is None:
            raise ValueError(
                "distributed.backend is deepspeed, but distributed.deepspeed_config is null: name "
                "a file such as configs/deepspeed/zero2.json"
            )
        return self


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
    tokenizer: Tokenizer = Tokenizer()
    qlora: Qlora = Qlora()
    masking: Masking = Masking()
    replay: Replay = Replay()
    study_texts: StudyTexts = StudyTexts()
    hyperparameters: Hyperparameters = Hyperparameters()
    optimizer: Optimizer = Optimizer()
    scheduler: Scheduler = Scheduler()
    scientific_data: ScientificData = ScientificData()
    instructions: Instructions = Instructions()
    merge: Merge = Merge()
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
    release: Release = Release()
    generate: Generate = Generate()
    sweep: Sweep = Sweep()
    variants: dict[str, dict[str, Any]] = Field(default={"default": {}})

    @field_validator("variants", mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        # A file that extends another one takes out a variant of that one so.
        if isinstance(value, dict):
            return {name: overlay for name, overlay in value.items() if overlay is not None}
        return value

    @model_validator(mode="after")
    def _optimisation_fits_what_is_trained(self) -> "Training":
        check_optimisation(self)
        return self

    @model_validator(mode="after")
    def _papers_keep_a_share(self) -> "Training":
        if self.mixed_share > LARGEST_MIXED_SHARE:
            raise ValueError(
                f"replay.share ({self.replay.share:g}) and study_texts.share "
                f"({self.study_texts.share:g}) are more than {LARGEST_MIXED_SHARE:g} together: the "
                "rest of the training tokens are those of the papers; lower one"
            )
        return self

    @property
    def mixed_share(self) -> float:
        """Share of the training tokens that are not those of the papers themselves."""
        return self.replay.share + self.study_texts.share

    @property
    def warmup_steps(self) -> int | None:
        """Warm-up in optimiser steps; None: `scheduler.warmup_ratio` decides."""
        if self.scheduler.num_warmup_steps is not None:
            return self.scheduler.num_warmup_steps
        return self.hyperparameters.warmup_steps
