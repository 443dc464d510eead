"""Mentions of variants: how they are written, where to look, and the finder."""
