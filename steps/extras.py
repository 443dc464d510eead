"""Packages that only some need, and that the environment of the demo does without.

require_extra("ray", wanted_by="scientific_data.engine: ray")
"""

import importlib.util
import sys
from pathlib import Path
from typing import Literal

from steps.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "extras"

Extra = Literal["ray", "s3", "postgres"]
# The module whose presence tells that an extra is installed.
MODULES: dict[Extra, str] = {"ray": "ray", "s3": "boto3", "postgres": "psycopg"}


def require_extra(extra: Extra, wanted_by: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: Its name, that of its file in extras/.
        wanted_by: The setting that needs it, as the message names it.

    Raises:
        UserError: It is not; the message has the command that installs it.
    """
    if importlib.util.find_spec(MODULES[extra]) is None:
        raise UserError(
            f"{wanted_by} needs {MODULES[extra]}, which is not installed: "
            f"uv pip install --python {sys.executable} -r {FOLDER / extra}.txt"
        )
