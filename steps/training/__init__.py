"""One training run: rows, losses, the trainer and its callbacks."""
