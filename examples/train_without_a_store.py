"""Train an adapter with the pipeline's `ModelTrainer` alone: no MLflow, no steps.

    python -m examples.train_without_a_store --papers brca1.xml --out adapter
    python -m examples.train_without_a_store --overrides "qlora.r=8" --out adapter

For people with a tracker or a cluster of their own, who want what is below the steps:
papers cleaned and split, rows packed without contamination, checkpoints that resume bit for bit.
The adapter is one of peft: `PeftModel.from_pretrained(base, "adapter")`.
"""

import tempfile
from pathlib import Path

import click
import torch

from steps.config.file import load_config
from steps.evaluation.likelihood import score_papers
from steps.evaluation.summary import summarise
from steps.models.adapters import add_adapter, trainable_parameters
from steps.models.devices import Placement, dtype_name, pick_device, pick_dtype
from steps.models.loading import load_model
from steps.models.sources import resolve_base
from steps.models.tokenizer import load_tokenizer
from steps.papers.pipeline import prepare_dataset
from steps.papers.stored_papers import read_papers
from steps.training.context import TrainingContext
from steps.training.trainer import ModelTrainer


@click.command()
@click.option("--papers", type=click.Path(exists=True, path_type=Path), help="Any format.")
@click.option("--config", default="configs/demo.yaml", show_default=True)
@click.option("--overrides", default="", help='As for the steps: "qlora.r=8".')
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The adapter's folder.")
def main(papers: Path | None, config: str, overrides: str, out: Path) -> None:
    """Prepare papers, train on them, score the held-out ones before and after, save."""
    training = load_config(config, overrides).training
    settings = training.scientific_data

    # 1. Papers in, splits out: cleaned, without near-duplicates across splits.
    scratch = Path(tempfile.mkdtemp(prefix="forge-example-"))
    prepare_dataset([papers or Path(str(settings.data_file))], settings, scratch)
    train, validation, test = (
        read_papers(scratch / "dataset", split, settings.sections)
        for split in ("train", "validation", "test")
    )

    # 2. The base and an adapter on it.
    base = resolve_base(training.model)
    device = pick_device(training.hardware.device)
    dtype = pick_dtype(training.hardware, device)
    torch.manual_seed(training.hyperparameters.seed)
    model = load_model(base, training.qlora.quantization, training.qlora.bits, dtype, device)
    model = add_adapter(model, training.qlora, base.objective)
    tokenizer = load_tokenizer(base.folder)
    click.echo(f"{base.name}: {trainable_parameters(model):,} trainable parameters")

    # 3. Bits per byte of held-out papers, before.
    def bits_per_byte() -> float:
        model.eval()
        length = training.model.max_length
        frame = score_papers(
            model, tokenizer, test, context=length, stride=length // 2, batch_tokens=2048
        )
        return summarise(frame)["bits_per_byte"]

    before = bits_per_byte()

    # 4. Train; `scratch/run` gets the checkpoints. `trainer.train(resume=...)` goes on from one.
    context = TrainingContext(placement=Placement(device, dtype_name(dtype)))
    folder = scratch / "run"
    trainer = ModelTrainer(training, model, tokenizer, train, validation, folder, context=context)
    trainer.train()

    # 5. After, and what peft loads.
    click.echo(
        f"{len(test)} held-out papers: {before:.4f} bits per byte, now {bits_per_byte():.4f}"
    )
    model.save_pretrained(out)
    click.echo(f"adapter in {out}")


if __name__ == "__main__":
    main()
