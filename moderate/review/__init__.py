"""The queue that people work through: what is in it, who has what, and what was decided."""
