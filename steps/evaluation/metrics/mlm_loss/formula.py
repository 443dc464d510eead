"""Loss of a masked language model: the formula, free of heavy imports."""

import numpy as np
import numpy.typing as npt


def mlm_loss(nats: "npt.ArrayLike", targets: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    """Mean negative log-likelihood from totals; arrays give one result an element.

    Args:
        nats: Negative log-likelihood of the masked tokens.
        targets: Masked tokens.
    """
    return np.asarray(nats, dtype=np.float64) / np.asarray(targets, dtype=np.float64)
