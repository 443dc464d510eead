"""A base and its adapter in memory: sources, checks, loading, attention."""
