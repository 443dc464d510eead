"""Time per step and bytes sent of one process and of two, on two machines of one core each.

    python -m benchmarks.several_processes            # needs root, for its network namespaces

Two network namespaces stand in for machines; what their wire counts is what the ranks sent each
other. All sides take the same rows in each step (one process accumulates twice) with a random LLaMA
that is small enough for the CPU, in float32 over gloo. The first steps are not counted.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.two_machines import Machine, two_machines

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3
STEPS = 12
PORT = 29411
BACKENDS = ("ddp", "zero2", "zero3")
METHODS = ("lora", "full")


@click.command()
@click.option("--rank-of", type=click.Path(path_type=Path), hidden=True)
def main(rank_of: Path | None) -> None:
    """Print a table of both numbers of processes under each backend."""
    if rank_of is not None:
        run_rank(json.loads(rank_of.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as scratch, two_machines() as machines:
        folder = Path(scratch)
        model = folder / "model"
        _save_model(model)
        print("milliseconds a step, median and quartiles; bytes sent by rank 0 in a step")
        print(f"{'method':8}{'backend':10}{'1 process':>16}{'2 processes':>16}{'sent':>14}")
        for method in METHODS:
            alone = _measure(folder, model, method, "ddp", machines[:1])
            for backend in BACKENDS:
                both = _measure(folder, model, method, backend, machines)
                share = both["bytes"] / both["trained"]
                print(
                    f"{method:8}{backend:10}{_spread(alone['seconds']):>16}"
                    f"{_spread(both['seconds']):>16}{both['bytes'] / 1e6:>11.2f} MB"
                    f"{share:>8.1f} bytes for each of {both['trained'] / 1e6:.2f} M trained",
                    flush=True,
                )


def _spread(seconds: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{1000 * middle:.0f} ({1000 * low:.0f}-{1000 * high:.0f})"


def _abstracts() -> list[str]:
    """Those of the demo papers, some of which are faulty on purpose."""
    file = ROOT / "data" / "high_quality_papers_demo.json"
    papers = json.loads(file.read_text(encoding="utf-8"))["papers"]
    found = (paper.get("abstract") for paper in papers if isinstance(paper, dict))
    return [text for text in found if isinstance(text, str) and text.strip()]


def _save_model(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from benchmarks.tiny_models import save_tiny_llama

    save_tiny_llama(folder, _abstracts())
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)


def _measure(
    folder: Path, model: Path, method: str, backend: str, machines: Sequence[Machine]
) -> dict[str, Any]:
    count = len(machines)
    said: dict[str, Any] = {"model": str(model), "method": method, "backend": backend}
    said["count"] = count
    said["out"] = str(folder / f"{method}-{backend}-{count}")
    specification = folder / "specification.json"
    specification.write_text(json.dumps(said), encoding="utf-8")
    program = ["-m", "benchmarks.several_processes", "--rank-of", str(specification)]
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    environment["FORGE_CACHE"] = str(folder / "cache")
    output = folder / "output.txt"
    processes = []
    for index, machine in enumerate(machines):
        place = {"FORGE_INTERFACE": machine.interface}
        if count > 1:
            place |= {"RANK": str(index), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
            place |= {"LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": machines[0].address}
            place |= {"MASTER_PORT": str(PORT)}
        command = [sys.executable, *program]
        processes.append(machine.start(command, ROOT, environment | place, output))
    if any(process.wait(timeout=600) for process in processes):
        sys.exit(output.read_text(encoding="utf-8")[-3000:])
    result: dict[str, Any] = json.loads(Path(said["out"] + ".json").read_text(encoding="utf-8"))
    return result


def run_rank(said: dict[str, Any]) -> None:
    """One rank: train, and note when each step ended and what the wire had counted then."""
    import torch
    import transformers

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
    from steps.distributed.collectives import process_group
    from steps.distributed.deepspeed import deepspeed_settings, zero_stage
    from steps.distributed.ranks import Rank, rank_from_environment
    from steps.models.adapters import add_adapter, trainable_parameters
    from steps.models.devices import Placement
    from steps.models.loading import load_model
    from steps.models.sources import resolve_base
    from steps.models.tokenizer import load_tokenizer
    from steps.papers.text import PaperText, Span
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    rank = rank_from_environment() or Rank()
    training = Training(
        model=Model(name=said["model"], max_length=256),
        qlora=Qlora(
            method=said["method"],
            r=16,
            lora_dropout=0.0,
            quantization=Quantization(load_in_4bit=False),
        ),
        hyperparameters=Hyperparameters(
            batch_size=2,
            gradient_accumulation_steps=2 // said["count"],
            max_steps=WARM_UP + STEPS,
            learning_rate=1e-4,
        ),
        logging=Logging(eval_strategy="no", save_strategy="no", log_steps=1000),
        memory_optimization=MemoryOptimization(gradient_checkpointing=False),
        hardware=Hardware(bf16=False),
    )
    rows = [
        PaperText(str(index), text, (Span(0, len(text), "abstract"),))
        for index, text in enumerate(_abstracts())
    ]
    settings = None
    if said["backend"] != "ddp":
        path = ROOT / "configs" / "deepspeed" / f"{said['backend']}.json"
        settings = deepspeed_settings(
            path, training, torch.float32, ranks=rank.count, micro_batch=2
        )
    counter = Path(f"/sys/class/net/{os.environ['FORGE_INTERFACE']}/statistics/tx_bytes")
    # The namespace's own view of its interfaces, which `ip netns exec` has mounted.
    marks: list[tuple[float, int]] = []

    class Marks(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append((time.perf_counter(), int(counter.read_text())))

    with process_group(rank, "cpu", 5, alone=settings is not None):
        base = resolve_base(training.model)
        torch.manual_seed(0)
        model = load_model(base, training.qlora.quantization, 16, torch.float32, "cpu")
        model = add_adapter(model, training.qlora, base.objective)
        trained = trainable_parameters(model)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = ModelTrainer(
                training,
                model,
                load_tokenizer(base.folder),
                rows,
                [],
                Path(scratch),
                context=TrainingContext(
                    placement=Placement("cpu", "float32", rank.count, zero_stage(settings)),
                    rank=rank,
                    deepspeed=settings,
                ),
            )
            trainer.add_callback(Marks())
            trainer.train()
    if rank.is_first:
        counted = marks[WARM_UP - 1 :]
        seconds = [b[0] - a[0] for a, b in itertools.pairwise(counted)]
        sent = (counted[-1][1] - counted[0][1]) / len(seconds)
        result = {"seconds": seconds, "bytes": sent, "trained": trained}
        Path(said["out"] + ".json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
