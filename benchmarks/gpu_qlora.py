r"""QLoRA of LLaMA-2 7B on one GPU: memory, speed, and the error of the plan, beside TRL and peft.

    python -m benchmarks.gpu_qlora --out results
    python -m benchmarks.gpu_qlora --out results --lengths 1024 --micro-batches 1 --systems ours
    python -m benchmarks.gpu_qlora --out results --tiny --device cpu      # the script itself, tried

The model has LLaMA-2 7B's shape and random weights, made and quantised layer by layer: no hub,
and never all of it in 16 bits. Each case trains a few optimiser steps on rows of one document of
full length, in a process of its own with a time limit; running out of memory is a result. Writes
`gpu_qlora.json` and `gpu_qlora.md` into the folder `--out`.

Needs torch, transformers, peft, accelerate, bitsandbytes, numpy, and of this project's own
requirements pydantic and msgspec; nvidia-ml-py for the memory of the process. TRL (with
datasets) is measured where it can be imported, with Liger and FlashAttention where those can.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SYSTEMS = ("ours", "trl")
LENGTHS = (1024, 4096, 16384, 32768)
MICRO_BATCHES = (1, 4)
TINY_LENGTHS = (64, 128)
# Optimiser steps whose time is not counted: allocator, kernels and moments settle in them.
WARM_UP_STEPS = 2
MEASURED_STEPS = 4
RANK = 16
SEED = 0


def main() -> None:
    """Run every case in a process of its own, and write what came out."""
    arguments = read_arguments()
    if arguments.case:
        system, length, rows = arguments.case
        result = run_case(system, int(length), int(rows), arguments.tiny, arguments.device)
        Path(arguments.out).write_text(json.dumps(result), encoding="utf-8")
        return
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for repeat in range(arguments.repeats):
        for length in arguments.lengths or (TINY_LENGTHS if arguments.tiny else LENGTHS):
            for rows in arguments.micro_batches:
                # Alternating, so that a drift of the machine falls on both.
                for system in arguments.systems:
                    result = case_in_process(system, length, rows, arguments)
                    results.append({"repeat": repeat, **result})
                    print(json.dumps(results[-1]), flush=True)
                    write(folder, results, arguments)
    print((folder / "gpu_qlora.md").read_text(encoding="utf-8"))


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, help="Folder for the results.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="A tiny shape, to try the script.")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--lengths", nargs="+", type=int, help="Tokens of a row.")
    parser.add_argument("--micro-batches", nargs="+", type=int, default=MICRO_BATCHES)
    parser.add_argument("--repeats", type=int, default=1, help="Processes a case.")
    parser.add_argument("--time-limit", type=float, default=600, help="Seconds a case.")
    parser.add_argument("--case", nargs=3, metavar=("SYSTEM", "LENGTH", "ROWS"), help="For itself.")
    return parser.parse_args()


def case_in_process(
    system: str, length: int, rows: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run one case in a fresh process, so that no case inherits another's memory."""
    case = {"system": system, "length": length, "micro_batch": rows}
    command = [sys.executable, "-m", "benchmarks.gpu_qlora", "--device", arguments.device]
    command += ["--tiny"] * arguments.tiny + ["--case", system, str(length), str(rows)]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "result.json"
        try:
            finished = subprocess.run(
                [*command, "--out", str(file)],
                timeout=arguments.time_limit,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {**case, "status": f"not done in {arguments.time_limit:.0f} s"}
        if not file.is_file():
            last = finished.stderr.strip().splitlines() or ["no word"]
            return {**case, "status": f"failed with {finished.returncode}: {last[-1]}"}
        return {**case, **json.loads(file.read_text(encoding="utf-8"))}


def run_case(system: str, length: int, rows: int, tiny: bool, device: str) -> dict[str, Any]:
    """Train a few steps.

    Returns:
        `status` ("ok", "out of memory", or why it was not run), and for "ok" the figures; the
        plan in every case of ours.
    """
    if system == "trl" and importlib.util.find_spec("trl") is None:
        return {"status": "trl is not installed"}
    import torch

    from steps.planning.out_of_memory import OutOfMemory, is_out_of_memory

    if device == "cuda" and not torch.cuda.is_available():
        return {"status": "torch sees no GPU"}
    plan = planned(length, rows, tiny, device) if system == "ours" else {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = (train_ours if system == "ours" else train_with_trl)(
                length, rows, tiny, device, Path(folder)
            )
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        return {"status": "out of memory", **plan, **memory_figures(device)}
    counted = seconds[WARM_UP_STEPS:]
    figures = {
        "status": "ok",
        "tokens_per_second": rows * length / statistics.median(counted),
        "step_seconds": counted,
        **memory_figures(device),
        **plan,
    }
    allocated = figures["allocated"]
    if system == "ours" and allocated is not None:
        figures["plan_over_measured"] = plan["planned_tensors"] / allocated
    return figures


# --- The model ---


def llama_config(length: int, tiny: bool) -> Any:
    """LLaMA-2 7B's shape, with as many positions as are asked for, or a tiny one."""
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {}
    if tiny:
        # Multiples of 64, as bitsandbytes' product on the CPU asks for.
        sizes = {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        }
    return LlamaConfig(max_position_embeddings=max(4096, length), use_cache=False, **sizes)


def quantised_llama(length: int, tiny: bool, device: str, dtype: Any) -> Any:
    """A LLaMA with random NF4 weights, each layer quantised as soon as it is made."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    settings = llama_config(length, tiny)
    layers = settings.num_hidden_layers
    settings.num_hidden_layers = 0
    torch.manual_seed(SEED)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(settings)
            settings.num_hidden_layers = layers
            for i in range(layers):
                model.model.layers.append(quantised(LlamaDecoderLayer(settings, i), dtype, device))
    finally:
        torch.set_default_dtype(default)
    model.requires_grad_(False)
    # What `from_pretrained` would have set, and peft asks for.
    model.is_loaded_in_4bit = True
    return model


def quantised(layer: Any, dtype: Any, device: str) -> Any:
    """Replace each linear layer of a module by its 4-bit form, with double quantisation."""
    import bitsandbytes as bnb
    from torch import nn

    for parent in list(layer.modules()):
        for name, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear):
                continue
            four_bit = bnb.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            four_bit.weight = bnb.nn.Params4bit(
                linear.weight.data.cpu(),
                requires_grad=False,
                compress_statistics=True,
                quant_type="nf4",
                module=four_bit,
            ).to(device)
            setattr(parent, name, four_bit)
    return layer


def word_tokenizer(tiny: bool) -> Any:
    """A tokenizer whose words are numbers, so that a text of n words has n tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>"]
    words += [str(i) for i in range(len(words), llama_config(0, tiny).vocab_size)]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )


def documents(length: int, rows: int, tiny: bool) -> list[str]:
    """Random documents, each of which fills a row with its BOS and EOS."""
    import random

    draw = random.Random(SEED)
    numbers = range(3, llama_config(0, tiny).vocab_size)
    count = rows * (WARM_UP_STEPS + MEASURED_STEPS)
    return [" ".join(map(str, draw.choices(numbers, k=length - 2))) for _ in range(count)]


# --- The systems ---


def our_configuration(length: int, rows: int, device: str) -> Any:
    """What the finetune step would train with."""
    from steps.config.sections import Hardware, Hyperparameters, Logging, Model, Qlora, Training

    return Training(
        model=Model(name="llama-2-7b", max_length=length),
        qlora=Qlora(method="qlora", r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0),
        hyperparameters=Hyperparameters(
            batch_size=rows,
            gradient_accumulation_steps=1,
            max_steps=WARM_UP_STEPS + MEASURED_STEPS,
        ),
        logging=Logging(log_steps=1, eval_strategy="no", save_strategy="no"),
        hardware=Hardware(device="cpu" if device == "cpu" else "auto"),
    )


def number_format(device: str) -> Any:
    """bfloat16 where the GPU computes in it, else float16; on a CPU float32."""
    import torch

    if device == "cpu":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def planned(length: int, rows: int, tiny: bool, device: str) -> dict[str, Any]:
    """The plan of a case, as the finetune step would make it."""
    from steps.models.devices import Placement, dtype_name
    from steps.planning.models import model_from_config
    from steps.planning.plan import plan_memory

    plan = plan_memory(
        model_from_config(llama_config(length, tiny).to_dict(), "llama-2-7b"),
        our_configuration(length, rows, device),
        micro_batch=rows,
        length=length,
        placement=Placement(
            "cpu" if device == "cpu" else "cuda", dtype_name(number_format(device))
        ),
    )
    return {
        "planned": plan.total,
        "planned_tensors": plan.tensor_bytes,
        "planned_parts": plan.parts,
    }


def train_ours(length: int, rows: int, tiny: bool, device: str, folder: Path) -> list[float]:
    """Train with this project's ModelTrainer; seconds of each step."""
    from steps.models.adapters import add_adapter
    from steps.models.devices import Placement, dtype_name
    from steps.papers.text import PaperText, Span
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    training = our_configuration(length, rows, device)
    dtype = number_format(device)
    model = quantised_llama(length, tiny, device, dtype)
    papers = [
        PaperText(str(i), text, (Span(0, len(text), "abstract"),))
        for i, text in enumerate(documents(length, rows, tiny))
    ]
    trainer = ModelTrainer(
        training,
        add_adapter(model, training.qlora, "causal"),
        word_tokenizer(tiny),
        papers,
        [],
        folder,
        context=TrainingContext(
            placement=Placement("cpu" if device == "cpu" else "cuda", dtype_name(dtype))
        ),
    )
    return timed(trainer, device)


def train_with_trl(length: int, rows: int, tiny: bool, device: str, folder: Path) -> list[float]:
    """Train with TRL's SFTTrainer at its best documented settings; seconds of each step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    dtype = number_format(device)
    model = quantised_llama(length, tiny, device, dtype)
    on_gpu = device == "cuda"
    flash = on_gpu and importlib.util.find_spec("flash_attn") is not None
    liger = on_gpu and importlib.util.find_spec("liger_kernel") is not None
    model.set_attn_implementation("flash_attention_2" if flash else "sdpa")
    tokenizer = word_tokenizer(tiny)
    tokens = [
        [tokenizer.bos_token_id, *tokenizer(text).input_ids, tokenizer.eos_token_id]
        for text in documents(length, rows, tiny)
    ]
    arguments = SFTConfig(
        output_dir=str(folder),
        max_length=length,
        # Every document fills its row; without FlashAttention packing would mix documents.
        packing=flash,
        per_device_train_batch_size=rows,
        max_steps=WARM_UP_STEPS + MEASURED_STEPS,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not on_gpu,
        # Its own loss (the default) does without all logits, too.
        use_liger_kernel=liger,
        learning_rate=2e-4,
        max_grad_norm=0.3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )
    adapter = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": tokens}),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    return timed(trainer, device)


def timed(trainer: Any, device: str) -> list[float]:
    """Train, and return the seconds of each optimiser step."""
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return [end - start for start, end in itertools.pairwise(ends)]


# --- Figures ---


def memory_figures(device: str) -> dict[str, int | None]:
    """Peaks in bytes; of a CPU only the process's is known."""
    import torch

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cpu":
        return {"allocated": None, "reserved": None, "process": resident}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "process": gpu_memory_of_this_process(),
    }


def gpu_memory_of_this_process() -> int | None:
    """What the driver counts for this process now; None where it does not say."""
    import os

    if importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
    except pynvml.NVMLError:
        return None
    sizes = [one.usedGpuMemory for one in running if one.pid == os.getpid()]
    return sizes[0] if sizes else None


def write(folder: Path, results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Write all results so far, as JSON and as a Markdown table."""
    content = {"machine": machine(arguments.device), "tiny": arguments.tiny, "results": results}
    (folder / "gpu_qlora.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "gpu_qlora.md").write_text(markdown(content), encoding="utf-8")


def machine(device: str) -> dict[str, str]:
    """Card and versions."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    card = platform.processor() or platform.machine()
    if device == "cuda" and torch.cuda.is_available():
        card = torch.cuda.get_device_name()
    facts = {"device": card}
    for package in ("torch", "transformers", "peft", "bitsandbytes", "trl", "liger-kernel"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def markdown(content: dict[str, Any]) -> str:
    """The results as a table: medians over repeats, and the range of the steps' speeds."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in content["machine"].items()),
        "",
        "| tokens | rows | system | tokens a second (range) | allocated | reserved | process | "
        "planned | planned / allocated | ours / TRL |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for one in content["results"]:
        cases.setdefault((one["length"], one["micro_batch"], one["system"]), []).append(one)
    for (length, rows, system), found in cases.items():
        good = [one for one in found if one["status"] == "ok"]
        if not good:
            plan = in_words(found[0].get("planned"))
            lines.append(
                f"| {length:,} | {rows} | {system} | {found[0]['status']} | | | | {plan} | | |"
            )
            continue
        other = [one for one in cases.get((length, rows, "trl"), []) if one["status"] == "ok"]
        compared = system == "ours" and other
        ratio = f"{speed(good) / speed(other):.2f}" if compared else ""
        speeds = [rows * length / second for one in good for second in one["step_seconds"]]
        error = [one["plan_over_measured"] for one in good if "plan_over_measured" in one]
        lines.append(
            f"| {length:,} | {rows} | {system} | "
            f"{speed(good):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) | "
            + " | ".join(in_words(largest(good, key)) for key in ("allocated", "reserved"))
            + f" | {in_words(largest(good, 'process'))} | {in_words(good[0].get('planned'))} | "
            + (f"{statistics.median(error):.3f}" if error else "")
            + f" | {ratio} |"
        )
    return "\n".join([*lines, ""])


def speed(results: list[dict[str, Any]]) -> float:
    """Median tokens per second of several processes."""
    return float(statistics.median(one["tokens_per_second"] for one in results))


def largest(results: list[dict[str, Any]], key: str) -> int | None:
    """Largest known value of a figure."""
    known = [one[key] for one in results if one[key] is not None]
    return max(known, default=None)


def in_words(size: int | None) -> str:
    """A size for the table; those of tiny shapes in MiB."""
    if size is None:
        return ""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    main()
