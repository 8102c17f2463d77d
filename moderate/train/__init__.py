"""Heads of one's own: trained on labels, on what an installed network makes of images."""
