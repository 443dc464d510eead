"""One checkpoint on a disk: its format, its writer, the state of its trainer."""
