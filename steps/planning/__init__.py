"""Memory, time and disk of a training run, before any weight is loaded."""
