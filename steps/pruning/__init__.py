"""Which checkpoints may go, and removing them so that a crash does no harm."""
