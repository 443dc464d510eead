"""Peak resident memory of each rank while ZeRO-3 gets hold of a base: whole, or by shares.

    python -m benchmarks.sharded_loading                        # 2 and 4 ranks, 1.1 billion weights
    python -m benchmarks.sharded_loading --layers 2 --ranks 2   # a look at it in a minute

A random LLaMA is saved once in bfloat16, and each way is measured in processes of its own, one way
after the other: the whole base in every process, from which DeepSpeed then takes its part, and
`steps.models.shares`, which reads a rank's part alone. What a process held before it loads (Python,
torch, transformers) is subtracted. Memory of its own ("anon") and pages of the mapped files
("file", which processes share and the system takes back when it is short) are told apart by looking
every 2 milliseconds; the peak of both together is the kernel's own count (VmHWM). "load" is the
base with its adapter, "take" DeepSpeed's taking of it, as its engine does before
the first step; "kept" is what stays of memory of its own, and "share" what of that are partitioned
weights.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from steps.config.sections import Training

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("whole", "shares")
METHODS = ("lora", "qlora")
ZERO_3 = ROOT / "configs" / "deepspeed" / "zero3.json"
TEXT = "Variants of BRCA1 were found in 12 of 340 families. "


@click.command()
@click.option("--ranks", default="2,4", show_default=True, help="Numbers of processes.")
@click.option("--layers", default=16, show_default=True, help="Of the model; 16: 1.1 billion.")
@click.option("--ways", default=",".join(WAYS), show_default=True, help="What is measured.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Of adapting.")
@click.option("--rank-of", type=click.Path(path_type=Path), hidden=True)
def main(ranks: str, layers: int, ways: str, methods: str, rank_of: Path | None) -> None:
    """Print a table of the peaks, in MB, of the rank that had the most."""
    if rank_of is not None:
        run_rank(json.loads(rank_of.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = save_model(folder / "model", layers)
        print(f"{weights / 1e9:.3f} billion weights, {2 * weights / 1e6:,.0f} MB in bfloat16")
        print("MB above what a process held before it loads; the rank with the most")
        print(
            f"{'method':8}{'ranks':>6} {'way':8}{'load: anon':>12}{'file':>8}{'both':>8}"
            f"{'take: anon':>12}{'kept':>8}{'share':>8}{'seconds':>9}"
        )
        for method in methods.split(","):
            for count in map(int, ranks.split(",")):
                for way in ways.split(","):
                    of_ranks = measure(folder, count, method, way)
                    print(_line(method, count, way, of_ranks), flush=True)


def _line(method: str, count: int, way: str, of_ranks: list[dict[str, Any]]) -> str:
    def most(key: str) -> float:
        return float(max(one[key] for one in of_ranks)) / 1e6

    return (
        f"{method:8}{count:6} {way:8}{most('load_anon'):12,.0f}{most('load_file'):8,.0f}"
        f"{most('load_both'):8,.0f}{most('take_anon'):12,.0f}"
        f"{most('kept'):8,.0f}{most('share'):8,.0f}{most('seconds') * 1e6:9.1f}"
    )


def save_model(folder: Path, layers: int) -> int:
    """Write a random LLaMA in bfloat16, and the tokenizer of a small one; its weights' number."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.tiny_models import save_tiny_llama

    save_tiny_llama(folder, [TEXT])
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1)
            else:
                weight.normal_(std=0.02, generator=generator)
    model.save_pretrained(folder, max_shard_size="1GB")
    return sum(weight.numel() for weight in model.parameters())


def measure(folder: Path, ranks: int, method: str, way: str) -> list[dict[str, Any]]:
    """What each of several processes has found of itself."""
    name = f"{method}-{ranks}-{way}"
    said = {"model": str(folder / "model"), "out": str(folder / name)}
    said |= {"method": method, "way": way}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    finished = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", __spec__.name, "--rank-of", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise click.ClickException(finished.stdout[-2000:] + finished.stderr[-4000:])
    files = [Path(f"{folder / name}-{rank}.json") for rank in range(ranks)]
    return [json.loads(one.read_text(encoding="utf-8")) for one in files]


def resident() -> dict[str, int]:
    """Resident bytes of this process: its own, those of mapped files, and the most of both."""
    fields = {"RssAnon": "anon", "RssFile": "file", "VmHWM": "most"}
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key in fields:
            found[fields[key]] = 1024 * int(value.split()[0])
    return found


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """The most of each kind that is resident inside the block, above what was there before."""
    # The kernel begins its count anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident()
    seen, found, ended = dict(before), dict[str, int](), threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            now = resident()
            seen.update({kind: max(seen[kind], now[kind]) for kind in ("anon", "file")})

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield found
    finally:
        ended.set()
        watch.join()
        after = resident()
        standing = before["anon"] + before["file"]
        found |= {kind: seen[kind] - before[kind] for kind in ("anon", "file")}
        found |= {"both": after["most"] - standing, "kept": after["anon"] - before["anon"]}


def _training(said: dict[str, Any]) -> "Training":
    from steps.config.sections import (
        Hardware,
        Hyperparameters,
        Logging,
        MemoryOptimization,
        Model,
        Qlora,
        Quantization,
        Training,
    )

    four_bits = said["method"] == "qlora"
    return Training(
        model=Model(name=said["model"], max_length=64),
        qlora=Qlora(
            method=said["method"],
            r=8,
            lora_dropout=0.0,
            quantization=Quantization(load_in_4bit=four_bits),
        ),
        hyperparameters=Hyperparameters(batch_size=1, gradient_accumulation_steps=1, max_steps=1),
        logging=Logging(eval_strategy="no", save_strategy="no", log_steps=1),
        memory_optimization=MemoryOptimization(gradient_checkpointing=True),
        hardware=Hardware(bf16=True),
    )


def run_rank(said: dict[str, Any]) -> None:
    """Load as one of the ranks until all is DeepSpeed's, and write down what it took."""
    import torch

    from steps.distributed.collectives import process_group
    from steps.distributed.deepspeed import deepspeed_settings
    from steps.distributed.ranks import Rank, rank_from_environment
    from steps.models.adapters import add_adapter
    from steps.models.loading import load_model
    from steps.models.shares import load_base
    from steps.models.sources import resolve_base

    torch.set_num_threads(1)
    rank, dtype = rank_from_environment() or Rank(), torch.bfloat16
    training = _training(said)
    qlora, base = training.qlora, resolve_base(training.model)
    settings = deepspeed_settings(ZERO_3, training, dtype, ranks=rank.count, micro_batch=1)
    _warm_up()
    with process_group(rank, "cpu", 30, alone=True):
        started = time.perf_counter()
        with peaks() as load:
            if said["way"] == "shares":
                loaded = load_base(base, training, dtype, "cpu", settings)
                assert not loaded.whole, loaded.whole
                model = loaded.model
            else:
                model = load_model(
                    base, qlora.quantization, qlora.bits, dtype, "cpu", storage=dtype
                )
            model = add_adapter(model, qlora, base.objective)
        with peaks() as take:
            _give_to_deepspeed(model, settings)
        seconds = time.perf_counter() - started
        share = sum(
            one.ds_tensor.numel() * one.ds_tensor.element_size() for one in model.parameters()
        )
    result: dict[str, float] = {f"load_{kind}": size for kind, size in load.items()}
    # Above what was there before the loading.
    result["take_anon"] = load["kept"] + take["anon"]
    result |= {"kept": load["kept"] + take["kept"], "share": share, "seconds": seconds}
    Path(f"{said['out']}-{rank.index}.json").write_text(json.dumps(result), encoding="utf-8")


def _give_to_deepspeed(model: Any, settings: dict[str, Any]) -> None:
    """What DeepSpeed's engine does with the parameters of a model that it takes."""
    from deepspeed import comm, zero

    theirs = [one for one in model.parameters() if hasattr(one, "ds_id")]
    if theirs:
        rest = [one for one in model.parameters() if not hasattr(one, "ds_id")]
        theirs[0].convert_to_zero_parameters(param_list=rest)
    else:
        comm.init_distributed(auto_mpi_discovery=False)
        zero.Init(module=model, config_dict_or_path=settings)


def _warm_up() -> None:
    """Import and allocate what any loading does once."""
    for library in ("bitsandbytes", "deepspeed", "peft", "transformers"):
        importlib.import_module(library)


if __name__ == "__main__":
    main()
