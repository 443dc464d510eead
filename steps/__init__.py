"""The pipeline: one click program a step, and the rooms that the steps use."""
