"""Values in which something stands that does not belong there."""

from collections.abc import Iterator
from typing import Any


def mutations(value: Any) -> Iterator[Any]:
    """The value with each node of it, at every depth, replaced by what does not belong there."""
    yield from (None, [], {}, 1, -1.5, True, "x", "", [None], [1], [[]], [{}], {"a": 1})
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for inner in mutations(value[key]):
                yield {**value, key: inner}
    elif isinstance(value, list):
        for place in range(len(value)):
            for inner in mutations(value[place]):
                yield [*value[:place], inner, *value[place + 1 :]]
