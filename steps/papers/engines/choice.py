"""Which engine prepares the papers, and why.

choice = choose_engine(settings, files)
with choice.opened(settings) as engine: ...
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steps.config.paper_sections import ScientificData
from steps.extras import MODULES, require_extra
from steps.papers.engines.engine import (
    RAY_ADDRESS,
    WANTED_BY,
    Engine,
    LocalEngine,
    cluster_address,
)
from steps.terminal import say

# From this many bytes of papers on, auto takes a cluster that is there (benchmarks/RESULTS.md).
BYTES_WORTH_A_CLUSTER = 500_000_000


@dataclass(frozen=True)
class Choice:
    """An engine that is not yet at work.

    Attributes:
        on_ray: Whether it is Ray.
        why: One line for the user; "" where nothing speaks of Ray.
    """

    on_ray: bool
    why: str

    @contextmanager
    def opened(self, settings: ScientificData) -> Iterator[Engine]:
        """Say which engine it is, and let it work until the block ends.

        Raises:
            UserError: There is no cluster that could be joined.
        """
        if not self.on_ray:
            if self.why:
                say(self.why)
            yield LocalEngine()
            return
        from steps.papers.engines.ray_cluster import ray_engine

        with ray_engine(settings) as (engine, machines):
            say(f"{self.why} ({machines})")
            yield engine


def choose_engine(settings: ScientificData, files: Sequence[Path]) -> Choice:
    """Choose by `scientific_data.engine`, by whether there is a cluster, and by the papers' size.

    Raises:
        UserError: Ray is asked for and not installed.
    """
    address = cluster_address()
    if settings.engine == "ray":
        require_extra("ray", WANTED_BY)
        where = f"the cluster at {address}" if address else "on this machine"
        return Choice(True, f"engine: ray, {where}")
    if not address:
        # A Ray on the same cores cannot be faster than processes on them.
        return Choice(False, "")
    if settings.engine == "local":
        return Choice(False, f"engine: local, as the configuration says ({RAY_ADDRESS} is set)")
    if importlib.util.find_spec(MODULES["ray"]) is None:
        return Choice(
            False, f"engine: local: {RAY_ADDRESS} is set, but ray is not installed (extras/ray.txt)"
        )
    size = sum(path.stat().st_size for path in files)
    papers = f"{size / 1e6:,.0f} MB of papers"
    if size < BYTES_WORTH_A_CLUSTER:
        return Choice(
            False,
            f"engine: local, for {papers}; scientific_data.engine=ray takes the cluster at "
            f"{address} below {BYTES_WORTH_A_CLUSTER / 1e6:,.0f} MB too",
        )
    return Choice(True, f"engine: ray, the cluster at {address}, for {papers}")
