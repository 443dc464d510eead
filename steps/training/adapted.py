"""Kept for models registered when this code was here: they still import these names."""

from steps.models.adapted import load_adapted, probe_difference

__all__ = ["load_adapted", "probe_difference"]
