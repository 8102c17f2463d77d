"""Rows to files: the row schema once, and a writer for each format."""
