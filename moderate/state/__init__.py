"""What outlives a run: scores by content, and the ledger of runs."""
