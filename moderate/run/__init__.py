"""What runs the line: sources, fetch, decode, classify, policy."""
