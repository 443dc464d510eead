"""How patterns with possessive groups, such as `(?:ab)*+`, are compiled.

Python before 3.11.5 (Debian 12 has 3.11.2) matches a possessive group wrongly where a repetition
of it fails half-way (CPython issue 106052): of JSON whose window ends within a string it finds
the wrong bracket. There the `regex` library compiles them, which is slower and right.
"""

import re
import sys
from typing import Any

import regex


def compile_possessive(pattern: Any, flags: int = 0) -> Any:
    """Compile a pattern that holds a possessive group; `flags` are those of `re`."""
    if sys.version_info >= (3, 11, 5):
        return re.compile(pattern, flags)
    return regex.compile(pattern, int(flags))
