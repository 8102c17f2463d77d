"""`python -m moderate`: the same as the console script."""

import sys

# Python puts the working directory first in the search path of modules, and it may hold uploads:
# nothing more is imported from there. Without -P, Python itself has looked there already.
if not sys.flags.safe_path:
    del sys.path[0]

from moderate.cli.entry import main

main()
