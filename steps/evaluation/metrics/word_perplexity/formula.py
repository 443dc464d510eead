"""Perplexity of a word: the formula, free of heavy imports."""

import numpy as np
import numpy.typing as npt


def word_perplexity(nats: "npt.ArrayLike", words: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Word perplexity from totals; arrays give one result an element.

    Args:
        nats: Negative log-likelihood of the text.
        words: Words of the text, separated by white space.
    """
    return np.exp(np.asarray(nats, dtype=np.float64) / np.asarray(words, dtype=np.float64))
