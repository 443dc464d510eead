"""The only place that imports mlflow: runs, artifacts, datasets, registry, reuse."""
