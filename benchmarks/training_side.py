"""One side of `benchmarks/training.py`, in a process and perhaps an environment of its own.

    python benchmarks/training_side.py JOB.json RESULT.json

All sides train LoRA or QLoRA on the same texts with the same model, rank, optimiser, constant
learning rate and longest gradient, until they have seen as many target tokens; then one function
scores the same held-out texts with each. Only the side `ours` imports this project.

    ours     ModelTrainer, with the memory that `python -m steps.finetune` keeps: rows packed by
             best fit, attention within documents, fused adapters. A text that is longer than a row
             becomes several windows.
    trl      TRL's SFTTrainer with `packing=True`, what else it chooses left as installed: best fit
             too, rows joined without padding, and a text longer than a row is cut off. On a CPU
             the attention is SDPA, under a mask of blocks by the positions, which restart: three
             abstracts packed have the loss that they have alone (2.79348 and 2.79346 nats a token).
    trainer  transformers' Trainer with peft as a careful user writes it: one document a row, cut
             off at the longest row, padded to the longest of its batch, and as many rows in a batch
             as come to the same number of tokens a step.
"""

import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

IGNORED = -100
# QLoRA's; of all sides.
MAX_GRAD_NORM = 0.3


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """When each step ended, how many targets it had, and the end of the training."""

    def __init__(self, trainer: Any, targets: int) -> None:
        """Watch a trainer, and end it after so many target tokens."""
        self.limit = targets
        self.targets: list[int] = []
        self.ends: list[float] = []
        self.counted = 0
        plain = trainer.training_step

        def training_step(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            self.counted += int((inputs["labels"][:, 1:] != IGNORED).sum())
            return plain(model, inputs, *rest, **named)

        trainer.training_step = training_step
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.targets.append(self.counted)
        control.should_training_stop = self.counted >= self.limit

    def tokens_per_second(self) -> float:
        """Target tokens a second, the first step (caches, first allocations) left out."""
        return (self.targets[-1] - self.targets[0]) / (self.ends[-1] - self.ends[0])


def peak_memory_bytes(device: str) -> int:
    """Most memory that this process has held so far, on the GPU where it computes there."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def held_out_loss(model: Any, tokenizer: Any, job: dict[str, Any]) -> float:
    """Mean nats a token over the held-out texts, each alone between BOS and EOS."""
    model.eval()
    nats, count = 0.0, 0
    device = next(model.parameters()).device
    dtype = getattr(torch, job["dtype"])
    for text in job["held_out"]:
        body = tokenizer(text, add_special_tokens=False).input_ids
        end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
        ids = [end if start is None else start, *body, end]
        row = torch.tensor([ids[: job["length"]]], device=device)
        mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        with torch.no_grad(), mixed:
            logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
        nats += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += row.shape[1] - 1
    return nats / count


def load_base(job: dict[str, Any]) -> Any:
    """The base as a user of transformers loads it, quantised for QLoRA."""
    dtype = getattr(torch, job["dtype"])
    arguments: dict[str, Any] = {}
    if job["method"] == "qlora":
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    place = 0 if job["device"] == "cuda" else "cpu"
    return transformers.AutoModelForCausalLM.from_pretrained(
        job["base"], dtype=dtype, device_map={"": place}, **arguments
    )


def lora(job: dict[str, Any]) -> Any:
    """The same adapter for all sides."""
    from peft import LoraConfig

    return LoraConfig(
        r=job["rank"],
        lora_alpha=2 * job["rank"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def common_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """Of transformers' `TrainingArguments`, and of TRL's heir of them."""
    return {
        "output_dir": job["folder"],
        "per_device_train_batch_size": job["rows"],
        "gradient_accumulation_steps": 1,
        "max_steps": job["most_steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": MAX_GRAD_NORM,
        "optim": "adamw_torch_fused",
        "bf16": job["dtype"] == "bfloat16",
        "fp16": job["dtype"] == "float16",
        "use_cpu": job["device"] == "cpu",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": job["seed"],
        "logging_steps": 1,
    }


def with_trl(job: dict[str, Any]) -> tuple[Any, Any, Clock]:
    """Train with TRL."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["base"])
    arguments = SFTConfig(packing=True, max_length=job["length"], **common_arguments(job))
    trainer = SFTTrainer(
        model=load_base(job),
        args=arguments,
        train_dataset=Dataset.from_dict({"text": job["texts"]}),
        processing_class=tokenizer,
        peft_config=lora(job),
    )
    clock = Clock(trainer, job["targets"])
    trainer.train()
    return trainer.model, tokenizer, clock


def with_trainer(job: dict[str, Any]) -> tuple[Any, Any, Clock]:
    """Train with transformers' Trainer, as its documentation shows it."""
    from datasets import Dataset
    from peft import get_peft_model, prepare_model_for_kbit_training

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["base"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_base(job)
    if job["method"] == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, lora(job))
    documents = ([*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in job["texts"])
    rows = [document[: job["length"]] for document in documents]
    tokens_of_a_step = job["rows"] * job["length"]
    at_once = max(1, round(tokens_of_a_step * len(rows) / sum(map(len, rows))))
    arguments = {**common_arguments(job), "per_device_train_batch_size": at_once}
    collator = transformers.DataCollatorForSeq2Seq(tokenizer, padding="longest")
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        data_collator=collator,
    )
    clock = Clock(trainer, job["targets"])
    trainer.train()
    return trainer.model, tokenizer, clock


def with_ours(job: dict[str, Any]) -> tuple[Any, Any, Clock]:
    """Train as the finetune step does."""
    from steps.allocator import keep_freed_memory

    keep_freed_memory()
    from steps.config.file import load_config
    from steps.models.adapters import add_adapter
    from steps.models.devices import Placement
    from steps.models.loading import load_model
    from steps.models.sources import Base
    from steps.models.tokenizer import load_tokenizer
    from steps.papers.text import PaperText, Span
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    settings = {
        "model.max_length": job["length"],
        "qlora.method": job["method"],
        "qlora.r": job["rank"],
        "qlora.lora_alpha": 2 * job["rank"],
        "qlora.lora_dropout": 0.0,
        "qlora.quantization.bnb_4bit_compute_dtype": job["dtype"],
        "hyperparameters.batch_size": job["rows"],
        "hyperparameters.gradient_accumulation_steps": 1,
        "hyperparameters.max_steps": job["most_steps"],
        "hyperparameters.learning_rate": job["learning_rate"],
        "hyperparameters.weight_decay": 0.0,
        "hyperparameters.max_grad_norm": MAX_GRAD_NORM,
        "hyperparameters.seed": job["seed"],
        "scheduler.type": "constant",
        "optimizer.type": "adamw_torch_fused",
        "logging.save_strategy": "no",
        "logging.log_steps": 1,
        "memory_optimization.gradient_checkpointing": "false",
    }
    overrides = " ".join(f"training.{name}={value}" for name, value in settings.items())
    training = load_config("configs/training.yaml", overrides).training
    base = Base("base", "folder", None, "", "causal", "", Path(job["base"]))
    dtype = getattr(torch, job["dtype"])
    bits = 4 if job["method"] == "qlora" else 16
    model = load_model(base, training.qlora.quantization, bits, dtype, job["device"])
    torch.manual_seed(job["seed"])
    model = add_adapter(model, training.qlora, "causal")
    tokenizer = load_tokenizer(base.folder)
    papers = [
        PaperText(str(number), text, (Span(0, len(text), "abstract"),))
        for number, text in enumerate(job["texts"])
    ]
    context = TrainingContext(placement=Placement(job["device"], job["dtype"]))
    trainer = ModelTrainer(
        training, model, tokenizer, papers, [], Path(job["folder"]), context=context
    )
    clock = Clock(trainer, job["targets"])
    trainer.train()
    return trainer.model, tokenizer, clock


SIDES = {"ours": with_ours, "trl": with_trl, "trainer": with_trainer}


def main() -> None:
    """Train, and write what was measured."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    model, tokenizer, clock = SIDES[job["side"]](job)
    peak = peak_memory_bytes(job["device"])
    loss = held_out_loss(model, tokenizer, job)
    with model.disable_adapter():
        base = held_out_loss(model, tokenizer, job)
    assert math.isfinite(loss), f"the held-out loss is {loss}"
    result = {
        "tokens_per_second": clock.tokens_per_second(),
        "peak_bytes": peak,
        "targets": clock.targets[-1],
        "steps": len(clock.targets),
        "loss": loss,
        "base_loss": base,
        "versions": {name: version(name) for name in job["packages"]},
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
