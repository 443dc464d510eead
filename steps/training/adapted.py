"""Where versions that were registered before the models had a folder of their own look."""

from steps.models.adapted import load_adapted, probe_difference

__all__ = ["load_adapted", "probe_difference"]
