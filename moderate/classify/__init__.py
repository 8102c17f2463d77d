"""Pixels to scores: bundles of weights, timm models, devices and precision."""
