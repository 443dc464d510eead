"""The folder for what can be made again: converted models, checkpoints of running steps."""

import os
import tempfile
from pathlib import Path

from steps.errors import UserError

CACHE_VARIABLE = "FORGE_CACHE"


def cache_folder() -> Path:
    """The user's cache: `$FORGE_CACHE`, else `scientificllm-forge` in the XDG cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(xdg).expanduser() / "scientificllm-forge"


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache, with those above it, and see that it can be written.

    Raises:
        UserError: It cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Refused now, and not when the work is done.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror}): set "
            f"{CACHE_VARIABLE} to a folder that can"
        ) from None
