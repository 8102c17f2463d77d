"""Results in the forms that other programs read: CI reports, and the answers of hosted services."""
