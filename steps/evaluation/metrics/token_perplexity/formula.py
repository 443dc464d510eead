"""Perplexity of a token: the formula, free of heavy imports."""

import numpy as np
import numpy.typing as npt


def token_perplexity(nats: "npt.ArrayLike", tokens: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Perplexity from totals; arrays give one result an element.

    Args:
        nats: Negative log-likelihood of the text.
        tokens: Tokens that were scored.
    """
    return np.exp(np.asarray(nats, dtype=np.float64) / np.asarray(tokens, dtype=np.float64))
