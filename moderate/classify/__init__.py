"""Runs models: from pixels to the scores of the five categories, on any device and backend."""
