"""Limits of decoder processes that options set. They can be imported without the decoders."""

IMAGES_PER_DECODER = 64
"""The most images that one process decodes, unless an option says otherwise.

A fresh process costs 10 to 20 ms of CPU time: see benchmarks/fresh_decoders.py.
"""

MOST_IMAGES_PER_DECODER = 1_000_000
"""The largest number that the option accepts."""
