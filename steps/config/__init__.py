"""The typed configuration: its sections, its file, and the layout of older files."""
