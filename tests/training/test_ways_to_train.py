"""How adapters begin, and what trains them: each resumes bit for bit, and loads as it was saved."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.config.sections import Quantization, Training
from steps.models.adapted import AdaptedModel, describe, save_adapted
from steps.models.sources import resolve_base
from tests.support.project import ROOT
from tests.support.resumed_runs import (
    Notes,
    assert_resumes_as_untouched,
    build,
    settings,
)

PLAIN = Quantization(load_in_4bit=False)
GENES = ("BRCA1", "TP53 = tumour suppressor", "CFTR")
EMBEDDINGS = {"causal": "embed_tokens", "masked": "word_embeddings"}
# What differs from plain LoRA, by section.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "pissa": {"qlora": {"initialization": "pissa"}},
    "pissa, rslora": {
        "qlora": {"initialization": "pissa", "method": "rslora", "quantization": PLAIN}
    },
    "olora": {"qlora": {"initialization": "olora"}},
    "eva": {"qlora": {"initialization": "eva"}},
    "eva on 4 bits": {"qlora": {"initialization": "eva", "method": "qlora"}},
    "loftq": {"qlora": {"initialization": "loftq", "method": "qlora"}},
    "LoRA+": {"optimizer": {"loraplus_lr_ratio": 4}},
    "embeddings": {"hyperparameters": {"embedding_learning_rate": 1e-3}},
    "new tokens, eva": {
        "qlora": {"initialization": "eva"},
        "tokenizer": {"new_tokens": GENES},
    },
    "new tokens": {"tokenizer": {"new_tokens": GENES}},
    "new tokens, 4 bits": {"qlora": {"method": "qlora"}, "tokenizer": {"new_tokens": GENES}},
    "new tokens, full": {
        "qlora": {"method": "full", "quantization": PLAIN},
        "tokenizer": {"new_tokens": GENES},
    },
    "muon": {"optimizer": {"type": "muon"}},
    "muon, full": {
        "qlora": {"method": "full", "quantization": PLAIN},
        "optimizer": {"type": "muon"},
    },
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["causal", "masked"])
def base_folder(
    request: pytest.FixtureRequest, tiny_llama_folder: Path, tiny_bert_folder: Path
) -> Path:
    return {"causal": tiny_llama_folder, "masked": tiny_bert_folder}[request.param]


def training_of(folder: Path, way: str) -> Training:
    sections = {name: dict(section) for name, section in WAYS[way].items()}
    values = sections.setdefault("hyperparameters", {})
    values["learning_rate"] = 3e-3
    if "embedding_learning_rate" in values:
        objective = "masked" if "bert" in folder.name else "causal"
        sections["qlora"] = {"modules_to_save": (EMBEDDINGS[objective],)}
    return settings(folder, **sections)


# One of each kind; the slow ones differ from them in what their names say.
FAST = ("pissa", "eva", "loftq", "embeddings", "new tokens", "muon, full")


@pytest.mark.parametrize(
    "way", [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in WAYS]
)
def test_stopped_and_resumed_a_run_ends_bit_for_bit_as_untouched(
    way: str, base_folder: Path, tmp_path: Path
) -> None:
    training = training_of(base_folder, way)
    assert_resumes_as_untouched(training, tmp_path, 7)


def test_what_was_trained_loads_in_a_fresh_process_with_equal_logits(
    base_folder: Path, tmp_path: Path
) -> None:
    for number, way in enumerate(WAYS):
        training = training_of(base_folder, way)
        short = training.hyperparameters.model_copy(update={"max_steps": 3})
        training = training.model_copy(update={"hyperparameters": short})
        trainer = build(training, tmp_path / "run" / str(number), Notes())
        trainer.train()
        base = resolve_base(training.model)
        description = describe(training, base, torch.float32)
        adapted = AdaptedModel(
            trainer.model, trainer.tokenizer, base.objective, torch.float32, "cpu", description
        )
        folder = tmp_path / "adapters" / way
        save_adapted(folder, trainer.model, trainer.tokenizer, description, adapted)
        config = folder / "adapter_config.json"
        if config.is_file():
            # Plain LoRA for whoever reads it, on the base as everybody has it.
            assert json.loads(config.read_text())["init_lora_weights"] is True
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from steps.models.adapted import load_adapted, probe_difference\n"
        "folders = Path(sys.argv[1]).iterdir()\n"
        "print(json.dumps({f.name: probe_difference(load_adapted(f), f) for f in folders}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "adapters")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(WAYS, 0.0)
