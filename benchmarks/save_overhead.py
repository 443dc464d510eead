"""What a checkpoint costs in a training of the demo model: seconds and bytes.

    python -m benchmarks.save_overhead

Trains a few steps of SmolLM2-135M with LoRA on the demo papers, then writes several checkpoints
of the same state, fsync and SHA-256 included, and sets their median against 20 steps. The upload
to the store is a copy in another thread, and not part of it.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

STEPS = 3
SAVES = 5
INTERVAL = 20


@click.command()
@click.option("--config", "config_path", default="configs/demo.yaml", show_default=True)
def main(config_path: str) -> None:
    """Measure, and print one line."""
    import torch
    import transformers

    from benchmarks.trainable import load_trainable
    from steps.config.file import load_config
    from steps.config.paths import PROJECT_ROOT
    from steps.models.devices import Placement, dtype_name
    from steps.papers.text import PaperText
    from steps.training.context import TrainingContext
    from steps.training.trainer import ModelTrainer

    overrides = (
        f"training.hyperparameters.max_steps={STEPS} training.logging.save_strategy=no "
        "training.qlora.method=lora training.output.save_total_limit=null"
    )
    training = load_config(config_path, overrides).training
    made = load_trainable(training)
    demo = PROJECT_ROOT / "data" / "high_quality_papers_demo.json"
    papers = json.loads(demo.read_text(encoding="utf-8"))["papers"]
    texts = [f"{p['title']}\n\n{p['abstract']}" for p in papers if p.get("abstract")]

    class StepClock(transformers.TrainerCallback):  # type: ignore[misc]
        """Notes when steps end."""

        ends: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Note it."""
            self.ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = ModelTrainer(
            training,
            made.model,
            made.tokenizer,
            [PaperText(str(i), text, ()) for i, text in enumerate(texts)],
            [],
            Path(folder),
            context=TrainingContext(placement=Placement(made.device, dtype_name(made.dtype))),
        )
        trainer.add_callback(StepClock())
        trainer.train()
        seconds = []
        for _ in range(SAVES):
            trainer.state.global_step += 1
            started = time.perf_counter()
            trainer._save_checkpoint(trainer.model, None)
            seconds.append(time.perf_counter() - started)
        written = Path(folder) / f"checkpoint-{trainer.state.global_step}"
        size = sum(file.stat().st_size for file in written.rglob("*"))
    step = statistics.median(
        after - before for before, after in zip(StepClock.ends, StepClock.ends[1:], strict=False)
    )
    moments = [
        value
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]
    trained = [p for p in made.model.parameters() if p.requires_grad]
    needed = sum(t.numel() * t.element_size() for t in [*trained, *moments])
    one = statistics.median(seconds)
    click.echo(
        f"step {step:.2f} s, save {one:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}): "
        f"{100 * one / (INTERVAL * step):.2f}% of {INTERVAL} steps; "
        f"checkpoint {size / 1e6:.1f} MB, {size / needed:.3f} times its tensors"
    )


if __name__ == "__main__":
    main()
