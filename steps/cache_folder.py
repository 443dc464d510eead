"""The folder for what can be made again: converted models, checkpoints of running steps."""

import os
from pathlib import Path

CACHE_VARIABLE = "FORGE_CACHE"


def cache_folder() -> Path:
    """The user's cache: `$FORGE_CACHE`, else `scientificllm-forge` in the XDG cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(xdg).expanduser() / "scientificllm-forge"
