"""Bytes of an image from wherever it is, within limits."""
