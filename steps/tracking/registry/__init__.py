"""Registered versions: references, registration, promotion, lineage."""
