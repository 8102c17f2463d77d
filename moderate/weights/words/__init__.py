"""Bundles from words: prompts go through a text tower once, and a scan needs the image tower."""
