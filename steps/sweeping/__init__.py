"""A search over configurations: what may be tried, what is tried next, and how trials rank."""
