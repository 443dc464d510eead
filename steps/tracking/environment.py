"""What a run was made with: library versions, machine, and the commit of the project.

Versions and hardware, but no path and no name of the machine: the result is published with
the run.
"""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from steps.config.paths import PROJECT_ROOT

# What decides about the numbers; all others are in the list of packages.
TAGGED_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "mlflow",
    "deepspeed",
    "liger-kernel",
)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide about the numbers, of those that are installed."""
    found = {}
    for name in TAGGED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = PROJECT_ROOT) -> dict[str, str]:
    """Commit of a folder's checkout and whether it was changed since.

    Returns:
        `git_commit` and `git_dirty` ("true" or "false"; files that git ignores do not count), or
        nothing where the folder is no checkout, or is an untracked part of another one.
    """
    tracked = _git(folder, "ls-files", "--error-unmatch", "MLproject")
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    if not tracked or not commit or changes is None:
        return {}
    return {"git_commit": commit, "git_dirty": "true" if changes else "false"}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where it fails or is not installed."""
    try:
        finished = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return finished.stdout.strip() if finished.returncode == 0 else None


def write_environment(folder: Path) -> None:
    """Write `requirements.txt` (every installed package) and `machine.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # By name: an editable install has two entries. Never as a URL, which may be a local path.
    packages = {
        d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]
    }
    lines = [f"{name}=={packages[name]}\n" for name in sorted(packages)]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "machine.json").write_text(json.dumps(_machine(), indent=1), encoding="utf-8")


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [],
    }
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        facts["gpus"] = [
            {"name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)} for card in cards
        ]
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        facts["driver"] = _driver()
    return facts


def _driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
