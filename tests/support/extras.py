"""The packages of extras/, installed once beside the environment and not into it."""

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from steps.cache_folder import cache_folder
from steps.digests import file_sha256
from steps.extras import FOLDER, Extra


def extra_folder(extra: Extra) -> Path:
    """A folder with the packages of an extra, for `PYTHONPATH`; made where there is none yet."""
    return installed(FOLDER / f"{extra}.txt")


def installed(requirements: Path) -> Path:
    """A folder with the packages of a requirements file, for `PYTHONPATH`."""
    version = f"{requirements.stem}-{file_sha256(requirements)[:12]}"
    folder = cache_folder() / "extras" / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            # A broken download leaves nothing under the name that is looked for.
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            uv = shutil.which("uv")
            install = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
            target = ["--python", sys.executable] if uv else []
            # Ray is a dozen processes, each of which would compile it anew.
            quick = ["--quiet", "--compile-bytecode"] if uv else ["--quiet"]
            # Its requirements are listed one by one, and what they share is in the environment.
            subprocess.run(
                [
                    *(*install, "install", *target, *quick, "--no-deps"),
                    *("--target", str(unfinished), "-r", str(requirements)),
                ],
                check=True,
            )
            unfinished.rename(folder)
    return folder
