"""A run in numbers: counted while rows pass, shown in the terminal, as JSON or as Markdown."""
