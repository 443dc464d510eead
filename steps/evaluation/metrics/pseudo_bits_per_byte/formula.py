"""Bits per byte from pseudo-likelihoods: the formula, free of heavy imports."""

import math

import numpy as np
import numpy.typing as npt


def pseudo_bits_per_byte(
    pseudo_nats: "npt.ArrayLike", pseudo_bytes: "npt.ArrayLike"
) -> "npt.NDArray[np.float64]":
    """Bits per byte of the tokens asked for, from totals; arrays give one result an element.

    Args:
        pseudo_nats: Negative log-likelihood of tokens, each masked alone.
        pseudo_bytes: UTF-8 bytes of those tokens.
    """
    return np.asarray(pseudo_nats, dtype=np.float64) / (
        math.log(2) * np.asarray(pseudo_bytes, dtype=np.float64)
    )
