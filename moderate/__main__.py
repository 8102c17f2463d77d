"""`python -m moderate`: the same as the console script."""

from moderate.cli.entry import main

main()
