"""Bits per byte: the formula, free of heavy imports."""

import math

import numpy as np
import numpy.typing as npt


def bits_per_byte(nats: "npt.ArrayLike", num_bytes: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Bits per byte from totals; arrays give one result an element.

    Args:
        nats: Negative log-likelihood of the text.
        num_bytes: UTF-8 bytes of the text.
    """
    return np.asarray(nats, dtype=np.float64) / (
        math.log(2) * np.asarray(num_bytes, dtype=np.float64)
    )
