"""The pipeline: one command-line program per step, and the packages that they use."""
