"""Metrics as modules of the `evaluate` library: `evaluate.load` takes each by its folder."""
