"""Several processes that train as one: ranks, collectives, launcher, DeepSpeed."""
