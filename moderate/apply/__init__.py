"""Applying decisions to files: copying, moving or linking them by what was decided, and undoing."""
