"""Copies of model folders that are not quite what they were."""

import json
import shutil
from pathlib import Path
from typing import Any


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder whose config.json says something else (None: says nothing)."""
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    (target / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return target
