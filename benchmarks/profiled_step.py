"""One step in this process, with its processor time shared out: imports, store, everything else.

    python -m benchmarks.profiled_step profile.json finetune --config tiny.yaml

`-X importtime` counts wall time, which on a busy machine is that of its neighbours; this counts
the processor time of each thread. An import belongs to the package that is imported, less the
imports within it; a call of MLflow belongs to the store, less the imports within it. Written as
JSON: seconds by package, of the store, of child processes and of the whole process.
"""

import functools
import importlib
import json
import resource
import runpy
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMPORT = "import "
STORE = "store"
# Where MLflow's work passes through: all requests, and what it does with files and models itself.
CLIENT = "mlflow.tracking.client"
STORE_FUNCTIONS = {
    "mlflow.artifacts": ("download_artifacts",),
    "mlflow.pyfunc": ("log_model", "load_model"),
    "mlflow.projects": ("run",),
}


class ProcessorTime:
    """Seconds by label, each less those of the labels that are entered within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._open = threading.local()

    def timed(self, label: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call, and count its processor time in this thread under a label."""
        inner: list[float] = getattr(self._open, "inner", [])
        self._open.inner = inner
        inner.append(0.0)
        start = time.thread_time()
        try:
            return call(*arguments, **options)
        finally:
            whole = time.thread_time() - start
            own = whole - inner.pop()
            if inner:
                inner[-1] += whole
            with self._lock:
                self.seconds[label] += own

    def wrap(self, holder: Any, name: str, label: str) -> None:
        """Count every call of a function or method under a label."""
        call = getattr(holder, name)

        @functools.wraps(call)
        def counted(*arguments: Any, **options: Any) -> Any:
            return self.timed(label, call, *arguments, **options)

        setattr(holder, name, counted)

    def watch_imports(self) -> None:
        """Count each import under its package, and the store's functions once they are there."""
        machinery: Any = importlib._bootstrap  # type: ignore[attr-defined]
        find_and_load = machinery._find_and_load

        def counted(name: str, import_: Any) -> Any:
            package = name.partition(".")[0]
            module = self.timed(IMPORT + package, find_and_load, name, import_)
            self._watch_store(name)
            return module

        machinery._find_and_load = counted

    def _watch_store(self, name: str) -> None:
        if name == CLIENT:
            client = sys.modules[CLIENT].MlflowClient
            for method in [one for one in vars(client) if not one.startswith("_")]:
                if callable(getattr(client, method)):
                    self.wrap(client, method, STORE)
        for function in STORE_FUNCTIONS.get(name, ()):
            self.wrap(sys.modules[name], function, STORE)


def main() -> None:
    """Run the step, and write what it took, however it ends."""
    file, step, *arguments = sys.argv[1:]
    spent = ProcessorTime()
    spent.watch_imports()
    sys.argv = [f"steps.{step}", *arguments]
    try:
        runpy.run_module(f"steps.{step}", run_name="__main__", alter_sys=True)
    finally:
        labelled = dict(spent.seconds)
        store = labelled.pop(STORE, 0.0)
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = {
            "imports": {name.removeprefix(IMPORT): value for name, value in labelled.items()},
            "store": store,
            "children": children.ru_utime + children.ru_stime,
            "process": used.ru_utime + used.ru_stime,
        }
        Path(file).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
