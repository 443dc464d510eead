"""Tasks of lm-evaluation-harness, on the hub's data or on local files, run on a loaded model."""
