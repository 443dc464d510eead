"""The project that is tested: where it lies, its demo texts, and a configuration of seconds."""

import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Real papers and cases, where they are present; the tests do without as well.
SHARED_DATA = Path(os.environ.get("FORGE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def demo_texts() -> list[str]:
    """Titles and abstracts of the demo papers."""
    content = json.loads((ROOT / "data/high_quality_papers_demo.json").read_text(encoding="utf-8"))
    return [f"{p['title']}\n\n{p['abstract']}" for p in content["papers"][:52]]


def write_tiny_config(folder: Path, model: Path) -> Path:
    """Write that configuration into a folder."""
    file = folder / "tiny.yaml"
    file.write_text(
        f"""
extends: {ROOT / "configs" / "training.yaml"}
training:
  model: {{name: {model}, max_length: 256}}
  qlora: {{method: lora, lora_dropout: 0.0}}
  hyperparameters:
    {{batch_size: 2, gradient_accumulation_steps: 1, max_steps: 30, learning_rate: 2e-2}}
  scientific_data:
    data_file: {ROOT / "data" / "high_quality_papers_demo.json"}
    filters: {{min_score: 50}}
    sections: [title, abstract]
    split: {{validation_fraction: 0.1, test_fraction: 0.25}}
    num_workers: 1
  logging: {{log_steps: 5, eval_steps: 15, save_steps: 15}}
  memory_optimization: {{gradient_checkpointing: false}}
  hardware: {{bf16: false}}
  mlflow: {{experiment_name: tiny, registered_model_name: tiny}}
  evaluation: {{generation: {{prompts: 2, max_new_tokens: 50}}, cloze_items: 10}}
  variants: {{lora: {{}}}}
""",
        encoding="utf-8",
    )
    return file
