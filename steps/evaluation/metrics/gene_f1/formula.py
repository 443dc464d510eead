"""Precision, recall and F1 of genes: the formula, free of heavy imports."""

import numpy as np
import numpy.typing as npt


def gene_precision(hits: "npt.ArrayLike", predicted: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Share of predicted genes that were expected, from totals."""
    return np.asarray(hits, dtype=np.float64) / np.asarray(predicted, dtype=np.float64)


def gene_recall(hits: "npt.ArrayLike", expected: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Share of expected genes that were predicted, from totals."""
    return np.asarray(hits, dtype=np.float64) / np.asarray(expected, dtype=np.float64)


def gene_f1(
    hits: "npt.ArrayLike", predicted: "npt.ArrayLike", expected: "npt.ArrayLike"
) -> "npt.NDArray[np.float64]":
    """Harmonic mean of precision and recall, from totals; arrays give one result an element.

    Args:
        hits: Genes both predicted and expected.
        predicted: Genes predicted.
        expected: Genes expected.
    """
    return (
        2
        * np.asarray(hits, dtype=np.float64)
        / (np.asarray(predicted, dtype=np.float64) + np.asarray(expected, dtype=np.float64))
    )
