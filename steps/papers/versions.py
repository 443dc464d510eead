"""The versions of what a dataset follows from besides our own code."""

import platform
from importlib.metadata import version

LIBRARIES = (
    "datasets",
    "ftfy",
    "lxml",
    "msgspec",
    "numpy",
    "py3langid",
    "pyarrow",
    "regex",
    "rensa",
)


def library_versions() -> dict[str, str]:
    """Version of Python and of each library, by name."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
