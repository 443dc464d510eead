"""The memory plan against measured tensors, on tiny models drawn anew: the distribution.

    python -m benchmarks.memory_plan --cases 120

Prints every case that is off by more than the tolerance with what draws it again, then the
quotients planned / measured by family and method. What is compared, and how it is measured:
`tests/planning/test_memory_measured.py`.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

METHODS = ("lora", "rslora", "full", "qlora", "lora_8bit", "dora")


def main() -> None:
    """Draw, measure, print."""
    from tests.planning.test_memory_measured import TOLERANCE, Case

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=120)
    arguments = parser.parse_args()
    quotients: dict[tuple[str, str], list[float]] = {}
    sizes = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.cases):
            seed = random.SystemRandom().randrange(2**32)
            # In turn, so that each family meets each method equally often.
            family = ("llama", "bert")[number % 2]
            method = METHODS[number // 2 % len(METHODS)]
            case = Case(seed, family=family, method=method)
            planned, measured = case.planned_and_measured(Path(scratch) / str(number))
            quotients.setdefault((family, method), []).append(planned / measured)
            sizes.append(measured)
            if abs(planned / measured - 1) > TOLERANCE:
                print(f"outlier {planned / measured:.3f}: {case}", flush=True)
    print("| family | method | cases | smallest | median | largest |\n|---|---|---|---|---|---|")
    for (family, method), found in sorted(quotients.items()):
        print(
            f"| {family} | {method} | {len(found)} | {min(found):.3f} | "
            f"{statistics.median(found):.3f} | {max(found):.3f} |"
        )
    print(f"measured {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
