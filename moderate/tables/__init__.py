"""Tables in untrusted files: lines, CSV, JSON Lines, and Parquet in a sandboxed process."""
