"""Random choices that depend on what is chosen for, and on nothing that ran before."""

import hashlib

import numpy as np


def generator_for(*names: str | int) -> np.random.Generator:
    """A random generator seeded by names, such as a seed, a task and a paper.

    Args:
        *names: What the choice is for; the same names give the same generator on any
            machine and in any order of calls.
    """
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
