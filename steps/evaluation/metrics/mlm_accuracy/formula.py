"""Accuracy of a masked language model: the formula, free of heavy imports."""

import numpy as np
import numpy.typing as npt


def mlm_accuracy(hits: "npt.ArrayLike", targets: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Masked-token accuracy from totals; arrays give one result an element.

    Args:
        hits: Masked tokens that were restored.
        targets: Masked tokens.
    """
    return np.asarray(hits, dtype=np.float64) / np.asarray(targets, dtype=np.float64)
