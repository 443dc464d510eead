"""The one table of metrics."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    pass


def finite(values: dict[str, float]) -> dict[str, float]:
    """The values that JSON and the store can hold."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


# Raised whenever a definition changes, so that old figures are not compared with new ones.
METRIC_VERSION = "2"
