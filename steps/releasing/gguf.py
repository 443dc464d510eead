"""GGUF files, for llama.cpp and Ollama: llama.cpp's own converter, its own quantisation.

No byte of the format is written here: see `converter`, and `llama_cpp.quantise`.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from steps.releasing.forms import Form
from steps.releasing.llama_cpp import quantise

# llama.cpp's numbers of the types (`llama_ftype` in llama.h).
FILE_TYPES = {"gguf:q8_0": 7, "gguf:q4_k_m": 15}
MODEL_FILE = "model.gguf"


def write_gguf(folder: Path, form: Form, sixteen_bits: Path, stops: Sequence[str]) -> None:
    """Write a GGUF form with the `Modelfile` that Ollama makes a model of.

    Args:
        folder: Where to; made.
        form: Which form.
        sixteen_bits: The file from `convert`.
        stops: Tokens that end a text, as they are written.
    """
    folder.mkdir(parents=True)
    file = folder / MODEL_FILE
    if form.name in FILE_TYPES:
        quantise(sixteen_bits, file, FILE_TYPES[form.name])
    else:
        shutil.copyfile(sixteen_bits, file)
    # The chat template stands in the file, where Ollama finds it; greedy, as it was measured.
    lines = [f"FROM ./{MODEL_FILE}", "PARAMETER temperature 0"]
    lines += [f"PARAMETER stop {json.dumps(stop)}" for stop in stops]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
