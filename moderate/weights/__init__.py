"""Getting bundles of weights onto this machine: download, assemble, install whole or not at all."""
