"""Where a release goes: a folder, the registry, or repositories of the hub.

    target = parse_target("hub:OWNER/NAME")
    push_to_hub(target.place, {"merged": folder})

The target is looked at before anything is made. A token is huggingface_hub's matter alone: it
comes from the environment or its own login, and stands in no file, tag or message of ours.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steps.errors import UserError, first_line, writing_to

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Target:
    """Where to.

    Attributes:
        kind: "folder", "registry" or "hub".
        place: The folder, or `OWNER/NAME`; "" for the registry.
    """

    kind: Literal["folder", "registry", "hub"]
    place: str = ""


def parse_target(push_to: str) -> Target | None:
    """Read `push_to`, and see whether its place can be used.

    Returns:
        None for "": nothing is pushed.

    Raises:
        UserError: It is none of the three kinds, the folder is there already, or the hub knows no
            account.
    """
    if not push_to:
        return None
    kind, _, place = push_to.partition(":")
    if kind == "registry" and not place:
        return Target("registry")
    if kind == "folder" and place:
        folder = Path(place).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"push_to {push_to!r}: {place!r} is there already and not empty, and nothing is "
                "overwritten: name another folder, or empty it"
            )
        return Target("folder", str(folder))
    if kind == "hub" and _REPOSITORY.fullmatch(place):
        _check_account(place)
        return Target("hub", place)
    raise UserError(f"push_to is {push_to!r}: expected folder:PATH, registry, or hub:OWNER/NAME")


def _check_account(repository: str) -> None:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise UserError(
            f"push_to hub:{repository}: there is no token for the hub: set HF_TOKEN to one that "
            "may write, or run `hf auth login`"
        )
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(_of_hub(repository, error)) from None


def push_to_folder(place: str, forms: Mapping[str, Path]) -> None:
    """Copy forms below a folder, which appears when it is complete.

    Args:
        place: The folder.
        forms: Their folders, by the name that each gets there.

    Raises:
        UserError: It cannot be written.
    """
    target = Path(place)
    unfinished = target.with_name(f".{target.name}.unfinished")
    with writing_to(f"the folder {place!r}", "name another one in push_to"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            for name, folder in forms.items():
                shutil.copytree(folder, unfinished / name)
            if target.is_dir():
                target.rmdir()
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def repositories(place: str, forms: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Which repository holds which forms: merged models, adapters and GGUF files have their own.

    Args:
        place: `OWNER/NAME`, that of the merged model.
        forms: Folders by name below `release/`.

    Returns:
        For each repository the folders, by the prefix that their files' names get there.
    """
    found: dict[str, dict[str, Path]] = {}
    for name, folder in forms.items():
        if name.startswith("gguf-"):
            found.setdefault(f"{place}-GGUF", {})[name.removeprefix("gguf-")] = folder
        else:
            suffix = "" if name == "merged" else f"-{name}"
            found.setdefault(place + suffix, {})[""] = folder
    return found


def push_to_hub(place: str, forms: Mapping[str, Path]) -> list[str]:
    """Upload forms into private repositories, one commit a form.

    Args:
        place: `OWNER/NAME`.
        forms: Folders by name below `release/`.

    Returns:
        The repositories.

    Raises:
        UserError: The hub refuses, or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    made = repositories(place, forms)
    for repository, folders in made.items():
        try:
            # Whoever owns it makes it public.
            api.create_repo(repository, repo_type="model", private=True, exist_ok=True)
            for prefix, folder in folders.items():
                api.upload_folder(
                    repo_id=repository,
                    folder_path=folder,
                    path_in_repo=prefix or None,
                    commit_message=f"Release {folder.name}",
                )
        # An upload that breaks off is a RuntimeError there.
        except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
            raise UserError(_of_hub(repository, error)) from None
    return list(made)


def _of_hub(repository: str, error: Exception) -> str:
    return (
        f"push_to hub:{repository}: the hub does not take it ({type(error).__name__}: "
        f"{first_line(error)}): check that HF_TOKEN may write there, and the network; what was "
        "released stands in the run"
    )
