"""By which columns a folder of results can be divided."""

DATE = "date"
PARTITION_COLUMNS = ("decision", DATE, "status", "label", "risk", "rating", "format", "origin")
"""Columns with few values, and the date of scoring."""
