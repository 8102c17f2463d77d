"""`python -m moderate`: the same as the console script."""

from moderate.cli.main import main

main()
