"""Dotted keys: nested mappings as `section.key` and back."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from steps.errors import UserError


def flatten(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, leaf value) of nested mappings."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def dotted(prefix: str, overlay: Mapping[str, Any]) -> Iterator[str]:
    """Write nested values as assignments `prefix.key=value` that `parse_overrides` reads back."""
    for key, value in flatten(prefix, overlay):
        # JSON is YAML's flow style: compact separators keep an assignment free of blanks.
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        yield f"{key}={text}"


def short_names(keys: Collection[str]) -> dict[str, str]:
    """The last part of each dotted key, and more of it where two end alike; by the whole key."""
    names = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        names[key] = next(
            ending
            for ending in endings
            if sum(f".{other}".endswith(f".{ending}") for other in keys) == 1 or ending == key
        )
    return names


def parse_overrides(overrides: str, sections: Collection[str]) -> dict[str, Any]:
    """Read `training.section.key=value` assignments, divided by blanks, into nested mappings.

    `training.` may be left out, and blanks may stand around `=`.

    Args:
        overrides: The assignments.
        sections: Names of the sections.

    Raises:
        UserError: A piece is no assignment, or does not begin with `training.` or a section.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # A value may hold blanks; the next assignment begins where a word starts like a key.
    own = "|".join(re.escape(section) for section in sections)
    begins = rf"training\.|(?:{own})(?:\.\w+)+\s*="
    assignments = []
    for part in filter(None, re.split(rf"\s+(?={begins})", overrides.strip())):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not re.match(begins, part):
            raise UserError(
                f"overrides: {part!r} is not of the form training.section.key=value "
                "(separate several with blanks)"
            )
        prefix = "" if key.startswith("training.") else "training."
        assignments.append(f"{prefix}{key}={value}")
    try:
        content = OmegaConf.to_container(OmegaConf.from_dotlist(assignments), resolve=True)
    except YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(
            f"overrides {overrides!r} are not readable ({problem}): write a list or a mapping as "
            'JSON, such as {"qlora.r":[4,8]}'
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"overrides {overrides!r}: {' '.join(str(error).split())}") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
