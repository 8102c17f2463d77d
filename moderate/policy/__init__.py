"""Scores to decisions, reasons and derived views, as a policy file states them."""
