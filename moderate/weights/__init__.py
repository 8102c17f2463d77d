"""Installs bundles of weights (download, convert, assemble), whole or not at all."""
