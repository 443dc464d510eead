"""Metrics as modules of the `evaluate` library, and the one place where their formulas stand.

Each folder is one metric: `evaluate.load("steps/evaluation/metrics/bits_per_byte")`.
"""
