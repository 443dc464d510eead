"""Examples run as they stand."""

import subprocess
import sys
from pathlib import Path

from tests.support.project import ROOT


def test_an_adapter_is_trained_without_a_store(tiny_config: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steps.config.file import load_config

    out = tmp_path / "adapter"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "examples.train_without_a_store"),
            *("--config", str(tiny_config), "--out", str(out)),
            *("--overrides", "hyperparameters.max_steps=20 logging.save_strategy=no"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split("held-out papers: ")[1].split()
    before, after = float(words[0]), float(words[5].rstrip("."))
    assert after < before
    base = AutoModelForCausalLM.from_pretrained(load_config(tiny_config).training.model.name)
    assert PeftModel.from_pretrained(base, out).peft_config
