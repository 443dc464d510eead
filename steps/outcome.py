"""What a step comes to, as the one JSON object that `--json` prints.

with as_json(wanted) as finish:
...                                # what is said goes to stderr meanwhile
add(decision=content)              # by whoever knows it
finish(exit_code, error)               # prints the object to stdout
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

# What is known so far; None where no object is printed.
_object: dict[str, Any] | None = None


def is_wanted() -> bool:
    """Whether this process prints an object at its end."""
    return _object is not None


def add(**content: Any) -> None:
    """Put something into the object, if one is printed; what is no JSON is written as text."""
    if _object is not None:
        _object.update(content)


@contextmanager
def as_json(wanted: bool) -> Iterator[Callable[[int, str | None], None]]:
    """Keep stdout for one JSON object; everything else, of child processes too, goes to stderr.

    Args:
        wanted: False changes nothing.

    Yields:
        What prints the object, given the exit code and the error: to be called afterwards.
    """
    if not wanted:
        yield lambda _code, _error: None
        return
    global _object
    _object = {}
    try:
        with _stdout_to_stderr():
            yield partial(_print, _object)
    finally:
        _object = None


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    sys.stdout.flush()
    # Child processes write to the descriptor, and know nothing of `sys.stdout`.
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _print(found: Mapping[str, Any], exit_code: int, error: str | None) -> None:
    content = {"exit_code": exit_code, "error": error, **found}
    sys.stdout.write(json.dumps(_finite(content), ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """A value as JSON knows it: not a number and infinite become null."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
