"""Checkpoints in the store: layout, inventory, removal, and what is resumed from."""
