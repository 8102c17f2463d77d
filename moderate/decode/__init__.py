"""Bytes of one image to pixels of the model's input size, in isolated processes."""
