"""Limits of decoder processes that options set and that are needed before any is started."""

IMAGES_PER_DECODER = 64
"""Images that one process decodes at most, unless an option says otherwise.

A fresh process costs 10 to 20 ms of CPU time: see benchmarks/fresh_decoders.py.
"""

MOST_IMAGES_PER_DECODER = 1_000_000
"""The largest number that the option takes."""
