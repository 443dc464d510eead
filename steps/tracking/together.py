"""What a step writes into its run at one point, kept until it can travel together.

    with run.together():
        run.artifact(report)
        run.metrics(figures)
        run.tag(dataset_digest=digest)

At the end of the block the files are sent side by side, and the rest in one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steps.tracking.artifacts import Sent, send
from steps.tracking.spool import MAX_METRICS, MAX_PAIRS

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

# What MLflow takes in one request beside as many tags and params.
METRICS_WITH_PAIRS = MAX_METRICS - 2 * MAX_PAIRS


@dataclass
class Waiting:
    """What waits to be written into one run.

    Attributes:
        depth: How many blocks are open; with none, everything is written at once.
        files: To be sent, and where to.
        tags: By name: the last value counts.
        params: By name.
        metrics: In their order.
    """

    depth: int = 0
    files: list[Sent] = field(default_factory=list)
    tags: dict[str, "RunTag"] = field(default_factory=dict)
    params: dict[str, "Param"] = field(default_factory=dict)
    metrics: list["Metric"] = field(default_factory=list)

    def add(
        self,
        tags: Sequence["RunTag"] = (),
        params: Sequence["Param"] = (),
        metrics: Sequence["Metric"] = (),
    ) -> None:
        """Take what is to be written."""
        self.tags |= {tag.key: tag for tag in tags}
        self.params |= {param.key: param for param in params}
        self.metrics += metrics

    def write(self, client: "MlflowClient", run_id: str) -> None:
        """Write it all: files first, because tags state their digests.

        Raises:
            MlflowException: The store does not take it; `store_errors` has what else is raised.
        """
        files, self.files = self.files, []
        if files:
            send(client, run_id, files)
        tags, params, metrics = [*self.tags.values()], [*self.params.values()], self.metrics
        self.tags, self.params, self.metrics = {}, {}, []
        while tags or params or metrics:
            client.log_batch(
                run_id,
                tags=tags[:MAX_PAIRS],
                params=params[:MAX_PAIRS],
                metrics=metrics[:METRICS_WITH_PAIRS],
            )
            tags, params = tags[MAX_PAIRS:], params[MAX_PAIRS:]
            metrics = metrics[METRICS_WITH_PAIRS:]
