"""Scores held against what people say: labels, metrics, thresholds and calibration."""
